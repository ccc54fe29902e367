"""Expressions of the generated source: nodes, literals, and objects of torch and the libraries."""
