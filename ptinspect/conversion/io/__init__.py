"""Writing files: atomic output, streaming copies and the zip that torch.load reads."""
