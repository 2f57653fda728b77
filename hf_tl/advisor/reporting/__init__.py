"""Recommendation as text, command and figure."""
