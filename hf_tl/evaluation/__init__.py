"""Metrics of a classifier, as functions of logits and as `evaluate.Metric` classes that need no network."""
