"""torch's own objects as expressions: modules, tensors, optimizers and the imports they need."""
