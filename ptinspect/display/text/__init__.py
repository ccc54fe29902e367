"""Text helpers of the output formats: columns, escaping, folding and JSON values."""
