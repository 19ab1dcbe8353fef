"""The documentation site: what Sphinx needs, and the pages that are made when it is built."""
