"""Write stubs for models of torchvision, timm and transformers, and try them without these
libraries. `python -m benchmarks.zoo --zoo-python PYTHON`; see `__main__`."""
