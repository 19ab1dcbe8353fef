"""The verdict's power: how often it calls retrained models different from which something small was not forgotten."""
