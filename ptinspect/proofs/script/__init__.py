"""`check script`: run the user's own script, kill it, start it again, and compare."""
