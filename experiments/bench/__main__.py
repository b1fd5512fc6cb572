"""Measurements that anyone can repeat, by name.

`python -m experiments.bench --help` lists them; each is a file of `experiments/bench/commands/`.
"""

import sys

from experiments.console.commands import run

if __name__ == "__main__":
    sys.exit(run("experiments.bench", __doc__))
