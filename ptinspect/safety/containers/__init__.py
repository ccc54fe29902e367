"""Open each container that scan knows and hand its pickles to the analysis."""
