"""Measurements that anyone can repeat: `python -m experiments.bench step|overhead|...`.

Nothing here decides a test.
"""
