"""One class per on-disk format, told by content: which pickles there are, where the bytes lie."""
