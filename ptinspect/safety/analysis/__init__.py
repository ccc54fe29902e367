"""Judge the imports and calls of one pickle stream."""
