"""Metrics of sets of class numbers, for tasks with any number of classes per example."""
