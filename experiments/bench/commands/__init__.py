"""What `python -m experiments.bench` measures, a file each."""
