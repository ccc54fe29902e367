"""Optimizers in a file: their state, the model they belong to, and whether the two fit."""
