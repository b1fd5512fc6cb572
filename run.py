"""ablora's command line: `python run.py --help`.

python run.py -m variant=dora,lora r=4,8,16 study=demo
"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from experiments import spec
from experiments.config import command

CONF = Path(__file__).resolve().parent / "conf"


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float:
    """One run by itself, for launchers that know nothing of sweeps (hydra/launcher=basic, joblib, ...)."""
    from experiments.sweep.jobs import run_alone

    return run_alone(config)


if __name__ == "__main__":
    spec.register()
    with command.plain_errors():
        sys.argv[1:] = command.prepare(sys.argv[1:], CONF)
        main()
