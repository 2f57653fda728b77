"""Trials: strategies are trained in cross-validation, and the results decide between them."""
