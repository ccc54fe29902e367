"""`check resume`: plan, proof, causes, cross-device runs and report."""
