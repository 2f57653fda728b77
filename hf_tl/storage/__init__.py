"""Atomic writes of files and folders on every operating system."""
