"""The restricted unpickler: bytes in, inert values out. It imports nothing and calls nothing."""
