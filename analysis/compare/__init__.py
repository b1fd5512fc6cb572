"""Variants against a baseline: which cells are paired, what sets them apart, and what may be concluded."""
