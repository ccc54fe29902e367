"""The zoo: models of torchvision, timm and transformers, each with its stub where these are not
installed. `python -m benchmarks.zoo --zoo-python PYTHON`; see `__main__`."""
