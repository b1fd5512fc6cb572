"""What to do with a study beside starting it.

`python -m experiments.sweep --help` lists the commands; each is a file of `experiments/sweep/commands/`.
"""

import sys

from experiments.console.commands import run

if __name__ == "__main__":
    sys.exit(run("experiments.sweep", __doc__))
