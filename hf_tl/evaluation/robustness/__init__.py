"""Robustness: common corruptions of images, and the metrics of a model on corrupted images."""
