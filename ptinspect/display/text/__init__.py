"""Text for the output formats: escaping, columns, and values as text or JSON."""
