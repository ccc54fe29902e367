"""Trainings for benchmarks.gpu.

`check resume` uses `Net`, `batches` and LOSS of a module. train.py also uses new_optimizer(model),
new_scheduler(optimizer), AMP (dtype of autocast), SCALER (True with a GradScaler) and
SCHEDULER_INTERVAL (`batch`, `epoch` or None). A module defines make_optimizer and make_scheduler
only if `check resume` cannot infer them from the file.
"""
