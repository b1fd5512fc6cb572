"""A configuration that Hydra composed, as the one run that it requests."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.config.grid import Plain, expand
from experiments.config.groups import Conf
from experiments.config.messages import mistakes
from experiments.errors import UserError
from experiments.sizing.ranks import dimensions
from experiments.spec import RunSpec
from experiments.sweep.precision import AUTO


def spec_of(config: DictConfig, hydra: DictConfig, *, match: bool = True) -> RunSpec:
    """The one run that a composed configuration requests.

    Args:
        config: The configuration, with or without Hydra's own part.
        hydra: Hydra's own part.
        match: Whether to refuse a rank that would have to be matched with those of other runs.
    """
    if match and config.get("match"):
        raise UserError(
            f"match={config.match} compares the cells of a whole sweep, but this launcher or sweeper of "
            "Hydra's hands over one run at a time: use hydra/launcher=local with hydra/sweeper=grid, the "
            "defaults"
        )
    conf = Conf.of_hydra(hydra)
    composed: Any = OmegaConf.to_container(without_hydra(config), resolve=True)
    files = {group: str(hydra.runtime.choices[group]) for group in conf.defaults()}
    specs, problems = expand(
        [],
        conf,
        choices=files,
        compose=lambda _: Plain(composed | {"match": None}),
        dimensions=dimensions if match else None,
    )
    if problems:
        raise UserError(mistakes(problems))
    if specs[0].train.precision == AUTO:
        raise UserError(
            "train.precision=auto is settled for all runs of a command at once, and this launcher or sweeper "
            "of Hydra's hands over one run at a time: give train.precision=fp32 or bf16"
        )
    return specs[0]


def without_hydra(config: DictConfig) -> DictConfig:
    """A configuration without Hydra's own part."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
