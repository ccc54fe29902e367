"""Stubs of TorchScript programs: the recorded code as Python, and `build(tensors)`."""
