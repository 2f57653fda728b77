"""Training of a strategy: phases, evaluation, model selection, escalation and refit."""
