"""What runs in child processes, and imports torch: `python -m ptinspect.proofs.worker`."""
