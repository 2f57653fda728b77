"""Saving of models with their record and card, and checks before publication."""
