"""Collect what a file records about its classes and objects."""
