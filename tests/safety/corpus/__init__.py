"""Whole files that scan has to be right about, made anew by every run: nothing of it is committed
as a binary. `python -m tests.safety.corpus FOLDER` writes them out."""
