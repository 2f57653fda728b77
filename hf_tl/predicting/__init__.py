"""Use of a trained model on other images: predictions, and evaluation on a hold-out set."""
