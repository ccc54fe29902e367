"""Proofs: consistent optimizer state, equal conversions, exact resume, a stub that loads."""
