"""Two models on the same images: which is better, by how much, and whether that may be chance."""
