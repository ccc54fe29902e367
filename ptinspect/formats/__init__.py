"""One class per on-disk format, chosen by content: its pickles, and the bytes of each storage."""
