"""Models and preprocessing of timm and of transformers."""
