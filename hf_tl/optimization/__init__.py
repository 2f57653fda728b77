"""Optimizer, schedule, loss and steps of a phase."""
