"""Abstention: images unlike the training images, and sets of classes with a coverage."""
