"""Figures of a card, drawn from the record of a run."""
