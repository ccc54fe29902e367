"""What may be loaded, and how."""
