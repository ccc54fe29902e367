"""Expressions of the generated source: nodes, literals and identifiers."""
