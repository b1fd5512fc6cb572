"""The keys of conf/hydra/launcher/slurm.yaml: what may stand there, and what a run of a spec gets.

The file holds the defaults and says what each key is for. A job's *shape* is all that Slurm must know to
place it; `resources` changes it by variant, by model (which wins), and for the report.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.config.groups import Conf
from experiments.config.schema import Key
from experiments.config.settings import Terms
from experiments.errors import UserError, did_you_mean
from experiments.spec import RunSpec

PREFIX = "hydra.launcher."
BY_SPEC = ("variant", "model")
ELSEWHERE = ("workers", *(f.name for f in fields(Terms)))
KINDS = (*BY_SPEC, "report")  # of resources


def _keys(*keys: Key) -> dict[str, Key]:
    return {key.name: key for key in keys}


_FROM_0, _FROM_1, _ABOVE_0 = {"allowed": (0, None)}, {"allowed": (1, None)}, {"allowed": (">0", None)}
JOB = _keys(
    Key("warning_seconds", "int", allowed=(1, None)),
    Key("setup", "texts"),
    Key("env", "text", optional=True),
    Key("python", "text", optional=True),
    Key("check", "bool"),
)


@dataclass(frozen=True)
class Shape:
    """What Slurm must know to place a job; runs of one shape share an array."""

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    exclude: str | None
    minutes: int = field(metadata=_FROM_1)
    cpus: int = field(metadata=_FROM_1)
    mem_gb: float | None = field(metadata=_ABOVE_0)
    gpus: int = field(metadata=_FROM_0)
    gpu_type: str | None
    throttle: int | None = field(metadata=_FROM_1)
    runs_per_task: int = field(metadata=_FROM_1)
    sbatch: tuple[str, ...]

    def words(self) -> Iterator[str]:
        """The options of sbatch that ask for it."""
        for name in ("partition", "account", "qos", "constraint", "exclude"):
            if (value := getattr(self, name)) is not None:
                yield f"--{name}={value}"
        yield f"--time={self.minutes}"
        yield "--nodes=1"
        yield "--ntasks=1"
        yield f"--cpus-per-task={self.cpus}"
        if self.mem_gb is not None:
            yield f"--mem={round(self.mem_gb * 1024)}M"
        if self.gpus:
            yield f"--gres=gpu:{f'{self.gpu_type}:' if self.gpu_type else ''}{self.gpus}"
        yield from self.sbatch


SHAPE = {f.name: Key.of_annotation(f.name, f.type, f.metadata.get("allowed")) for f in fields(Shape)}
SHAPE["sbatch"] = Key("sbatch", "texts")


@dataclass(frozen=True)
class Settings:
    """The launcher's keys, checked."""

    given: Mapping[str, Any]  # as they were given, to be kept with the submission

    @classmethod
    def of(cls, given: Mapping[str, Any], *, known: Mapping[str, Sequence[str]]) -> "Settings":
        """Check a composed configuration; UserError naming every mistake.

        Args:
            given: The launcher's part of the configuration, and beside it `workers` and the terms, which
                are checked elsewhere.
            known: The variants and models that there are, by "variant" and "model".
        """
        own = {key: value for key, value in given.items() if key not in ELSEWHERE}
        problems = [text for key, value in own.items() for text in problems_of(key, value, known=known)]
        settings = cls(given)
        if not problems:
            problems = [*settings._no_file(), *(t for s in settings._all() for t in settings._too_short(s))]
            problems += [text for shape in settings._of_runs() for text in settings._too_few(shape)]
        if problems:
            raise UserError("\n".join(dict.fromkeys(problems)))
        return settings

    def job(self, name: str) -> Any:
        """The value of a key that is the same for all jobs."""
        return JOB[name].convert(self.given[name])

    def terms(self) -> Terms:
        """How the engine treats the runs of a job."""
        return Terms.of(self.given)

    def shape(self, spec: RunSpec) -> Shape:
        """What a run of this spec gets."""
        return self._with(self._differing("variant", spec.variant), self._differing("model", spec.model))

    def report(self) -> Shape:
        """What the report, and whatever else comes after the runs, gets."""
        return self._with((self.given.get("resources") or {}).get("report") or {})

    def _differing(self, kind: str, name: str) -> Mapping[str, Any]:
        return ((self.given.get("resources") or {}).get(kind) or {}).get(name) or {}

    def _with(self, *differing: Mapping[str, Any]) -> Shape:
        values = {name: self.given[name] for name in SHAPE}
        for part in differing:
            values |= part
        return Shape(**{name: _converted(SHAPE[name], value) for name, value in values.items()})

    def _all(self) -> Iterator[Shape]:
        yield from self._of_runs()
        yield self.report()

    def _of_runs(self) -> Iterator[Shape]:
        yield self._with()
        for kind in BY_SPEC:
            for name in (self.given.get("resources") or {}).get(kind) or {}:
                yield self._with(self._differing(kind, name))

    def _no_file(self) -> Iterator[str]:
        env = self.job("env")
        if env is not None and not Path(env).is_file():
            yield f"{PREFIX}env names {env}, which is no file here."

    def _too_few(self, shape: Shape) -> Iterator[str]:
        processes = self.terms().fsdp
        if processes > (shape.gpus or shape.cpus):
            key = "gpus" if shape.gpus else "cpus"
            yield (
                f"{PREFIX}{key}={shape.gpus or shape.cpus} is too few for fsdp={processes}, whose processes "
                f"each take a GPU, or a core in a job without GPUs: give {PREFIX}gpus={processes}."
            )

    def _too_short(self, shape: Shape) -> Iterator[str]:
        warning = self.job("warning_seconds")
        if warning >= 60 * shape.minutes:
            yield (
                f"{PREFIX}warning_seconds={warning} leaves nothing of a limit of minutes={shape.minutes}: "
                f"make it smaller, or the limit larger."
            )


def problems_of(key: str, value: Any, *, known: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """What is wrong with a value at a dotted key below hydra.launcher, or with the key itself."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from problems_of(f"{key}.{name}", inner, known=known)
        return
    first, *parts = key.split(".")
    if first != "resources":
        yield from _wrong({**SHAPE, **JOB}, key, value, where=PREFIX)
        return
    kind, name = [*parts, ""][:2]
    if kind not in KINDS:
        yield f"{PREFIX}resources has no {kind!r}.{did_you_mean(kind, KINDS)} Known: {', '.join(KINDS)}."
    elif kind in BY_SPEC and name not in known[kind]:
        yield (
            f"{PREFIX}resources.{kind} has the key {name!r}, which is no {kind}."
            f"{did_you_mean(name, known[kind])} Known: {', '.join(known[kind])}."
        )
    else:
        *above, last = key.split(".")
        yield from _wrong(SHAPE, last, value, where=f"{PREFIX}{'.'.join(above)}.")


def _wrong(keys: Mapping[str, Key], name: str, value: Any, *, where: str) -> Iterator[str]:
    if name not in keys:
        yield f"There is no key {where + name!r}.{did_you_mean(name, keys)} Known: {', '.join(keys)}."
        return
    try:
        _converted(keys[name], value)
    except ValueError as error:
        yield where + str(error)


def _converted(key: Key, value: Any) -> Any:
    """A list of texts is a tuple, one text alone a tuple of it."""
    if key.kind == "texts" and not isinstance(value, str):
        return tuple(key.convert(list(value)))
    return (key.convert(value),) if key.kind == "texts" else key.convert(value)


def configured(given: Mapping[str, Any], config: DictConfig) -> Settings:
    """The settings of a command, given the launcher's keys and all that Hydra composed."""
    conf = Conf.of_hydra(config.hydra)
    plain = {
        name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for name, value in given.items()
    }
    return Settings.of(
        {**plain, **{name: config[name] for name in ELSEWHERE}},
        known={kind: conf.choices(kind) for kind in BY_SPEC},
    )
