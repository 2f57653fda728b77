"""Training views of images: augmented, streamed, in a reproducible order."""
