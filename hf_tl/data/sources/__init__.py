"""Stored splits of a dataset by its name: a folder, a table, files, the built-in digits, or a Hub dataset."""
