"""Cached features of the frozen stages."""
