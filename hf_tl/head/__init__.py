"""Solvers and learning rate search for the head."""
