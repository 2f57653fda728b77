"""Groups of images, each of which lies on one side of every split: series, column values, near-duplicates."""
