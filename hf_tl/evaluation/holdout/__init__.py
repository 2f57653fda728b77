"""Models to evaluate, and labeled images that they were not trained on."""
