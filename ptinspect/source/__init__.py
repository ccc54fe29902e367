"""Sources of bytes: `read(offset, length)` and a size, for files, pipes and memory."""
