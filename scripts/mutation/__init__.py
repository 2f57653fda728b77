"""Modules of scripts/check_mutants.py: the mutants of a file, the tests of each line, and runs of these tests."""
