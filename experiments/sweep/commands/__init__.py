"""What `python -m experiments.sweep` can do, a file each."""
