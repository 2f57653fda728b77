"""Frozen prefix of a network: where it ends, and how it runs alone."""
