"""ablora's command line: `python run.py --help`. Where ablora is installed, `ablora run` is the same.

python run.py -m variant=dora,lora r=4,8,16 study=demo
"""

import sys
from pathlib import Path

from experiments.config.launch import main

if __name__ == "__main__":
    main(sys.argv[1:], Path(__file__).resolve().parent / "conf")
