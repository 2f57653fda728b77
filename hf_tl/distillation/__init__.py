"""Distillation: a trained classifier teaches its predictions to a model."""
