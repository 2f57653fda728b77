"""Layouts of folders and tables, read into a plan before any image is opened."""
