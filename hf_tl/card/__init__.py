"""Model cards: a run record rendered as a README with figures."""
