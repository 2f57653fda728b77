"""Weights: reading, identity, origin, and safety checks of the repositories that they come from."""
