"""Files that torch writes: zip, two older formats, TorchScript, distributed checkpoints."""
