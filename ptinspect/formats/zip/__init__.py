"""The zip container: directory, end records, entries, and salvage without a directory."""
