"""Decoding, conversion and preprocessing of images."""
