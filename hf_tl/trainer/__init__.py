"""Strategies under the transformers `Trainer`."""
