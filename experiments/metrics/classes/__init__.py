"""Metrics of class numbers."""
