"""One module per target of `convert`, and what they share."""
