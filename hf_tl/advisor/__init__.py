"""Recommend a strategy and a backbone from measurements on the data."""
