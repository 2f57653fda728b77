"""Inspection of a dataset before training: its images, copies, leakage, label errors and outliers."""
