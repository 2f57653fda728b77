"""Choice of a backbone and a strategy from the measurements, and its estimated cost."""
