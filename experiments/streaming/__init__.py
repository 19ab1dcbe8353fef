"""Requests one after another without the retain set: how utility and forgetting drift."""
