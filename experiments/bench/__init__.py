"""Measurements that anyone can repeat: `python -m experiments.bench step|memory|latency|overhead`.

Nothing here decides a test.
"""
