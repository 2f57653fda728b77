"""Stages of a model, and what is frozen of them."""
