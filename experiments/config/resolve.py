"""From a composed configuration to a RunSpec, and what no combination of its values may be."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from experiments.config.settings import AXES, DEFAULTS, FACTS, SHORT
from experiments.errors import UserError, did_you_mean
from experiments.frozen import FrozenDict
from experiments.models import commit_of, content_of
from experiments.sizing.counts import own_rate
from experiments.spec import RunSpec, Train
from variants._core import costs
from variants._core.names import read_patterns

Made = TypeVar("Made")


def resolve(
    config: Mapping[str, Any], *, choices: Mapping[str, str], config_dirs: tuple[str, ...] = ()
) -> RunSpec:
    """The run that a composed configuration requests.

    Args:
        config: conf/config.yaml composed, as plain containers with values of the right types.
        choices: The file chosen in each group; variant and model are known by it.
        config_dirs: The folders that the command added to its own configuration.
    """
    variant, train, dataset = config["variant"], config["train"], config["dataset"]
    uses = variant.get("uses", SHORT)
    given = config["lr"] if "lr" in uses else None
    lr = float(variant["lr"] if given is None else given)
    head_lr = next(rate for rate in (train["head_lr"], variant["head_lr"], lr) if rate is not None)
    targets = config["targets"] if config["targets"] is not None else variant.get("targets")
    spec = RunSpec(
        study=config["study"],
        variant=choices["variant"],
        method=variant["method"],
        r=config["r"] if "r" in uses else None,
        alpha=config["alpha"] if "alpha" in uses else None,
        targets=targets if "targets" in uses else None,
        axes=_axes(variant, train["precision"]),
        options=_options(variant, (*FACTS, *AXES, *DEFAULTS)),
        model=choices["model"],
        model_options=_identified(config["model"]),
        dataset=dataset["name"],
        dataset_options=_options(dataset, ("name", "ranges")),
        lr=lr,
        train=_train(train, float(head_lr)),
        seed=config["seed"],
        tracker=_options(config["tracker"], ("ranges",)),
        signatures=config["signatures"],
        config_dirs=config_dirs,
    )
    own = own_rate(spec, lr) if given is None else lr
    return spec if own == lr else replace(spec, lr=own)


def check_composition(config: Mapping[str, Any], *, choices: Mapping[str, str]) -> list[str]:
    """What is wrong with the combination of values that are each allowed: one sentence per problem."""
    checks = _check_adapters if config["variant"]["method"] == "adapters" else _check_baseline
    return [
        *checks(config["variant"], choices["variant"]),
        *_check_train(config["train"]),
        *_check_pruning(config["variant"], config["train"]["steps"]),
        *_check_blocks(config["variant"], config["r"]),
        *_check_metrics(config["dataset"]),
        *_check_places(config, choices),
        *_check_sharded(config, choices["variant"]),
    ]


def _check_adapters(variant: Mapping[str, Any], name: str) -> list[str]:
    delta, found = variant.get("delta"), []
    if delta in (None, "none"):
        found.append(
            f"variant={name} trains adapters and needs a delta; variant=probe is what trains the head alone"
        )
    elif variant.get("controller") == "adalora_budget" and delta != "adalora":
        found.append(
            f"controller=adalora_budget prunes the singular values of delta=adalora, but variant={name} has "
            f"delta={delta} here: set variant.delta=adalora or variant.controller=none"
        )
    if variant.get("alpha_pattern") is not None and "alpha" not in variant["uses"]:
        found.append(
            f"variant={name} has no alpha, so variant.alpha_pattern={variant['alpha_pattern']} means nothing "
            "to it: leave it out, or take a variant with a scale, as variant=lora"
        )
    gradient, learns = variant.get("gradient"), variant.get("learn_scale")
    if gradient not in (None, "none") and delta not in (None, "none") and not costs.trains_both(delta):
        found.append(
            f"gradient={gradient} rewrites the gradients of A and B together, and delta={delta} does not "
            f"train both as LoRA does: set variant.delta=lora, or variant.gradient=none"
        )
    if variant.get("scale_lr_ratio") is not None and not learns:
        found.append(
            f"variant.scale_lr_ratio={variant['scale_lr_ratio']:g} is the rate of a scale that learns: set "
            f"variant.learn_scale=layer, or leave it out"
        )
    if learns and delta not in (None, "none") and not costs.has_scale(delta):
        found.append(
            f"variant.learn_scale={learns} trains the scale of a change of W, and delta={delta} has none: "
            "set variant.delta=lora, or leave it out"
        )
    if learns == "model" and (variant.get("rank_pattern") or variant.get("alpha_pattern")):
        found.append(
            "variant.learn_scale=model trains one scale, and rank_pattern and alpha_pattern start layers at "
            "several: set variant.learn_scale=layer"
        )
    for option in ("rank_pattern", "alpha_pattern"):
        try:
            read_patterns(f"variant.{option}", variant.get(option))
        except ValueError as error:
            found.append(str(error).rstrip("."))
    return found


def _check_pruning(variant: Mapping[str, Any], steps: int | None) -> list[str]:
    first, last = variant.get("t_init", 0), variant.get("t_final", 0)
    shares = [t if t < 1 else t / steps for t in (first, last) if t < 1 or steps is not None]
    if sum(shares) < 1:
        return []
    return [
        f"variant.t_init={first:g} and variant.t_final={last:g} leave no steps to prune in: together they "
        f"have to be less than the run (below 1 each is a share of it, from 1 on a number of steps)"
    ]


def _check_blocks(variant: Mapping[str, Any], r: int) -> list[str]:
    blocks = variant.get("blocks")
    if not blocks or r % blocks == 0:
        return []
    fitting = ", ".join(str(n) for n in range(1, r + 1) if r % n == 0)
    return [f"variant.blocks={blocks} does not divide r={r}: take {fitting}, or r={-(-r // blocks) * blocks}"]


def _check_baseline(variant: Mapping[str, Any], name: str) -> list[str]:
    found = [
        f"variant={name} has no adapters, so {axis}={variant[axis]} means nothing to it: leave "
        f"variant.{axis} out, or take variant={name} out of this command"
        for axis, neutral in (("delta", "none"), ("grouping", "uniform"), ("controller", "none"))
        if variant.get(axis, neutral) != neutral
    ]
    if variant["method"] in ("full", "bitfit") and variant.get("storage") not in (None, "fp32"):
        found.append(
            f"variant={name} trains the base itself, and weights in {variant['storage']} cannot be trained: "
            f"set variant.storage=fp32, or train adapters on them (variant=qlora)"
        )
    return found


def _check_sharded(config: Mapping[str, Any], name: str) -> list[str]:
    """What cannot train on a base in shards."""
    n, variant, train, found = config.get("fsdp", 1), config["variant"], config["train"], []
    if n == 1:
        return []
    if config["pack"] not in ("auto", "off", False, 1):
        found.append(
            f"fsdp={n} trains one run at a time, in {n} processes, and pack={config['pack']} several: "
            "leave one out"
        )
    if variant["method"] not in ("adapters", "probe") or variant.get("unfreeze_top"):
        found.append(
            f"fsdp={n} shards a frozen base under adapters, and variant={name} trains or enters the base "
            "itself: leave fsdp out, or take a variant of LoRA"
        )
    storage = variant.get("storage") or "fp32"
    if storage not in ("fp32", "bf16"):
        found.append(
            f"fsdp={n} shards weights in fp32 and bf16, and variant={name} keeps them in {storage}: set "
            "variant.storage=bf16, or leave fsdp out"
        )
    init = str(variant.get("init") or "kaiming")
    if (seen := costs.needs_of_init(init)) not in ("", "dense"):
        found.append(
            f"fsdp={n} gives each process a part of the rows, and variant.init={init} starts from the {seen} "
            "of all of them: take another init, or leave fsdp out"
        )
    if train["base_dropout"]:
        found.append(
            f"train.base_dropout={train['base_dropout']:g} draws from one stream, which the {n} processes of "
            f"fsdp={n} do not share: set it to 0"
        )
    rows = train["micro_batch_size"] or train["batch_size"]
    if rows % n:
        found.append(
            f"fsdp={n} does not divide the {rows} rows that are trained at a time: take a divisor, or "
            "another train.batch_size or train.micro_batch_size"
        )
    return found


def _check_train(train: Mapping[str, Any]) -> list[str]:
    steps, epochs, batch, micro = (
        train[key] for key in ("steps", "epochs", "batch_size", "micro_batch_size")
    )
    found = []
    if steps is not None and epochs is not None:
        found.append(
            f"train.steps={steps} and train.epochs={epochs} are two answers to one question: give one of them"
        )
    if steps is None and epochs is None:
        found.append("a run needs a length: give train.steps or train.epochs")
    if micro is not None and batch % micro:
        fitting = [size for size in range(1, batch + 1) if batch % size == 0]
        found.append(
            f"train.micro_batch_size={micro} does not divide train.batch_size={batch}: take one of "
            f"{', '.join(map(str, fitting))}"
        )
    return found


def _check_metrics(dataset: Mapping[str, Any]) -> list[str]:
    """Metrics that no kind of task has; which of them this task can have is known once its data is read."""
    given = [("metrics", name) for name in _texts(dataset.get("metrics"))]
    given += [("metric", name) for name in _texts(dataset.get("metric"))]
    if not given:
        return []
    from experiments.metrics import LIKELIHOODS, names

    known = sorted({*LIKELIHOODS, *names()})
    return [
        f"dataset.{key}={name}: there is no such metric.{did_you_mean(name, known)} Known: {', '.join(known)}"
        for key, name in given
        if name not in known
    ]


def _check_places(config: Mapping[str, Any], choices: Mapping[str, str]) -> list[str]:
    """Whether it is said where model and data are, and the data is there."""
    model, dataset, found = config["model"], config["dataset"], []
    if not any(model.get(key) for key in ("name", "path", "package")):
        found.append(
            f"model={choices['model']} needs to know which one: model.name=roberta-base or another name of "
            f"the hub, or model.path=<folder>"
        )
    try:
        _identified(model)
    except UserError as error:
        found.append(str(error))
    if not dataset["name"]:
        found.append(f"dataset={choices['dataset']} needs to know which table: dataset.name=owner/name")
    elif "path" in dataset and not dataset["path"] and "hub" not in dataset:
        found.append(f"dataset={choices['dataset']} needs to know where the data is: dataset.path=<file>")
    for path in _texts(dataset.get("path")):
        place = Path(path).expanduser()
        if not any(c in path for c in "*?[") and not place.exists():
            names = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
            found.append(
                f"dataset.path={path}: there is no such file (looked for {place.absolute()})."
                f"{did_you_mean(place.name, names)}"
            )
    return found


def _texts(value: Any) -> list[str]:
    """The texts in a value, in a list of them or in a mapping of them."""
    if isinstance(value, Mapping):
        return [text for v in value.values() for text in _texts(v)]
    if isinstance(value, list | tuple):
        return [text for v in value for text in _texts(v)]
    return [] if value is None else [str(value)]


def _once(make: Callable[..., Made]) -> Callable[..., Made]:
    """`make`, called once for equal arguments: a sweep of 100,000 cells has few different parts."""
    made: dict[str, Made] = {}

    def get(*arguments: Any) -> Made:
        spelled = repr(arguments)  # tells 1 from true
        if spelled not in made:
            made[spelled] = make(*arguments)
        return made[spelled]

    get.known = made  # type: ignore[attr-defined]
    return get


@_once
def _options(content: Mapping[str, Any], without: tuple[str, ...]) -> FrozenDict:
    return FrozenDict({key: value for key, value in content.items() if key not in without})


@_once
def _axes(variant: Mapping[str, Any], precision: str) -> FrozenDict:
    """The axes as resolved; for a baseline only how its base is stored is one."""
    axes = {axis: variant.get(axis) for axis in AXES} if variant["method"] == "adapters" else {}
    return FrozenDict({**axes, "storage": variant.get("storage") or precision})


@_once
def _train(train: Mapping[str, Any], head_lr: float) -> Train:
    return Train(**{**train, "head_lr": head_lr})


@_once
def _identified(options: Mapping[str, Any]) -> FrozenDict:
    """A model's options, with what makes them name one model and no other.

    A model in a folder is known by what the folder holds, or by a pinned hash; one of the hub by its commit.
    UserError where the hub says that there is none.
    """
    found = dict(_options(options, ("ranges",)))
    places = (Path(str(options[key])).expanduser() for key in ("path", "name") if options.get(key))
    place = next((place for place in places if place.exists()), None)
    if place is None:
        if options.get("name") and not options.get("path"):
            found["revision"] = commit_of(options["name"], options.get("revision")) or found.get("revision")
    elif not options.get("sha256"):
        found["content"] = content_of(place)
    return FrozenDict(found)
