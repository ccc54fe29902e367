"""Findings, verdicts and the reports that scan returns and prints."""
