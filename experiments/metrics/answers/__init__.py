"""Metrics of texts, each with one or several references."""
