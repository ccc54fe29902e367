"""The numbers of tensors: decoding, printing, statistics and hashes."""
