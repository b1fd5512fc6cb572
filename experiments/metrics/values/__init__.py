"""Metrics of numbers."""
