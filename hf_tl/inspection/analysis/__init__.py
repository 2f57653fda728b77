"""Analysis of images: copies, suspected label errors and outliers."""
