"""The zip container: its records, its directory, and salvage of what a truncated zip contains."""
