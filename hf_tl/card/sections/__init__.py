"""Values and statements of the sections of a card, derived from the record of a run."""
