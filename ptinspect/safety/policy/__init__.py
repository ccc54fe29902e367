"""The policy as data, and how a name is looked up in it."""
