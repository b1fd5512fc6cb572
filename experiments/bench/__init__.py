"""Measurements that anyone can repeat; `python -m experiments.bench --help` lists them.

Nothing here decides a test.
"""
