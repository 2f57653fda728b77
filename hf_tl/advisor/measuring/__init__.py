"""Measurements of backbones on a sample of the data."""
