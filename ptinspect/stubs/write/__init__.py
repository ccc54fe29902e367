"""Write classes, modules and packages as source text."""
