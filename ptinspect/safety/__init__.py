"""`ptinspect scan`: find out whether a file can be loaded safely, without executing it."""
