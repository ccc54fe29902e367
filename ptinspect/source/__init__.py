"""Where the bytes come from: `read(offset, length)`, a size, and nothing else."""
