"""A run from loaded inputs to a saved model: train, commit, evaluate, describe, push."""
