"""Tensors and storages on their way from the source to the target."""
