"""Comparison of two models on the same images: which is better, by how much, and whether that is significant."""
