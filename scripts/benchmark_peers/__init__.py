"""What scripts/benchmark.py runs: the peers' own recipes, the limits of the machine, and how a process is measured."""
