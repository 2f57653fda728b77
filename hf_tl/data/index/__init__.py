"""Index of a dataset: digests of unchanged files, and outcomes of the check of images, kept between runs."""
