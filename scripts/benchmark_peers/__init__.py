"""Commands of scripts/benchmark.py: recipes of other libraries, limits of the machine, measurement of processes."""
