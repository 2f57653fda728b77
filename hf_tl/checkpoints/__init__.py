"""Atomic checkpoints of a training: complete or absent, never partial."""
