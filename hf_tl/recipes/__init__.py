"""Recipes: the phases of the strategies by name, from what was chosen and the number of training images."""
