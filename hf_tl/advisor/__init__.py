"""Which strategy, which backbone: evidence is measured, and a few rules turn it into a recommendation."""
