"""Translate the objects of a file into expressions, and find out which classes it needs."""
