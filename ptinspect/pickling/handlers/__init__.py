"""Handlers of the pickle opcodes, one module per group of opcodes."""
