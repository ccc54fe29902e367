"""The zip container: its records, its directory, and the records of a truncated zip."""
