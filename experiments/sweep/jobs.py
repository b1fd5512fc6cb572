"""Runs as Hydra's jobs, for its other sweepers and launchers."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.config.composed import spec_of, without_hydra
from experiments.config.messages import plain_errors
from experiments.config.settings import Terms
from experiments.record import read
from experiments.spec import RunSpec

ROOT = Path("runs")


class RunFailed(Exception):
    """A run has no result; Hydra's sweepers see it where they ask for the job's value."""


def launch(
    configs: Sequence[DictConfig],
    words: Sequence[Sequence[str]],
    *,
    first: int,
    run: Callable[[Sequence[RunSpec]], int],
) -> list[JobReturn]:
    """Run one batch of a sweeper's jobs together.

    Args:
        configs: What Hydra composed for each job.
        words: The words of each job.
        first: The number of the first job.
        run: Runs specs and returns an exit code.

    Returns:
        Per job its value, or the error that reading it raises.
    """
    specs = [spec_of(without_hydra(config), config.hydra) for config in configs]
    code = run(specs)
    if code not in (0, 1):
        raise SystemExit(code)  # refused or interrupted: no batch after this one either
    return [
        _returned(spec, config, row, number)
        for number, (spec, config, row) in enumerate(zip(specs, configs, words, strict=True), first)
    ]


def run_alone(config: DictConfig) -> float:
    """One run for a launcher that knows nothing of sweeps; its value, as in `value_of`."""
    from experiments.sweep import engine

    spec = spec_of(config, cast(DictConfig, HydraConfig.get()))
    with plain_errors():
        code = engine.run([spec], workers=1, terms=Terms.of(config))
    if code not in (0, 1):
        raise SystemExit(code)
    return value_of(spec)


def value_of(spec: RunSpec, *, root: Path = ROOT) -> float:
    """The primary metric of a finished run on validation: NaN if it diverged, RunFailed if it failed."""
    from experiments.data import fingerprint

    folder = root / spec.study / spec.run_id(fingerprint(spec))
    record = read(folder)
    if record is None or record["status"] not in ("completed", "diverged"):
        raise RunFailed(f"{folder.name} {record['status'] if record else 'left no record'}: see {folder}")
    return float(record["metrics"].get(f"validation/{record['primary']['metric']}", "nan"))


def values_of(jobs: Sequence[JobReturn]) -> list[float]:
    """What another launcher's jobs returned; exit code 1 if some failed, each named."""
    failed = [job for job in jobs if job.status != JobStatus.COMPLETED]
    for job in failed:
        print(f"{' '.join(job.overrides or [])}: {job._return_value}", file=sys.stderr)
    if failed:
        raise SystemExit(1)
    return [job.return_value for job in jobs]


def _returned(spec: RunSpec, config: DictConfig, words: Sequence[str], number: int) -> JobReturn:
    with open_dict(config):
        config.hydra.job.num, config.hydra.job.id = number, str(number)
    job = JobReturn(overrides=list(words), cfg=without_hydra(config), task_name=config.hydra.job.name)
    job.hydra_cfg = OmegaConf.masked_copy(config, ["hydra"])
    job.working_dir = str(ROOT / spec.study)
    try:
        job.return_value, job.status = value_of(spec), JobStatus.COMPLETED
    except RunFailed as error:
        job.return_value, job.status = error, JobStatus.FAILED
    return job
