"""The page that `python run.py --help` shows, made from the files of conf/: a new one needs no entry."""

import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from experiments.config.groups import Conf
from experiments.config.settings import AXES, SHORT

WIDTH = 100
_COMMENTED = re.compile(r"^([a-z]\w*): *(.*?) +# (.*)", re.MULTILINE)
_HIDDEN = ("sha256", "revision", "package")  # of a model: what pins it, not for people to set

_TOP = """\
ablora compares LoRA variants in a statistically sound, fault-tolerant way.

  python run.py variant=dora,lora r=4,8,16 study=demo      six runs and a report
  python run.py variant=adalora r=8 seed=1                 one run

Where ablora is installed, `ablora run` is the same; `ablora --help` lists all commands.

A command is made of key=value. Several values make a sweep, and a command runs the product of its
sweeps: r=4,8,16 is three ranks, 'seed=range(0,5)' five seeds, 'variant=glob(*)' every variant. All
cells are checked before the first one starts. Give the same command again to go on after an
interruption: finished runs are skipped, unfinished ones resume from their last checkpoint. Hydra's
-m may be given or left out. Text is kept as typed: study=007 and study=1e3 are names.
"""

_EXAMPLES = """\
  python run.py variant=lora,rslora,loraplus,dora,adalora,qlora r=4,8,16 targets=qv,all seed=0,1,2
  python run.py dataset=csv dataset.path=reviews.csv dataset.text=review dataset.label=stars
  python run.py variant=dora variant.storage=nf4 variant.scaling=alpha_over_sqrt_r  # two papers
  python run.py variant=lora lr=1e-3,2e-3,5e-3 train.epochs=3
  python run.py variant=lora r=4,16 alpha='${r}' targets=[query,value]
  python run.py model=hf model.name=roberta-base tracker=wandb tracker.mode=offline
  python run.py variant=lora,dora r=8 hydra/sweeper=fair
  python run.py variant=dora +experiment=noise_floor
  python run.py variant=lora --cfg job                                              # only show it
"""

_RESULTS = """\
  runs/<study>/report/report.html   tables and figures in one file; report.md and results.csv too
  runs/<study>/<run_id>/            record.json, history.jsonl, predictions.parquet, adapter/ (PEFT)

  Exit code: 0 all done, 1 some runs failed, 2 a mistake in the command, 130 or 143 interrupted.
  Hydra's own options (--cfg, --info, tab completion): python run.py --hydra-help
"""

Rows = Iterable[tuple[str, list[str]]]  # a name and its paragraphs


def page(folder: Path) -> str:
    """The help for a configuration folder."""
    conf = Conf(folder)
    own = [
        (name, f"DATASET KEYS of {name}" + " and of every dataset of the hub" * (name == "hub"))
        for name in conf.choices("dataset")
        if name == "hub" or conf.read("dataset", name).get("reader") != "hub"
    ]
    parts = [
        _TOP,
        _section("KEYS", _keys(conf, folder)),
        _section("VARIANTS", _variants(conf)),
        _section("AXES  A variant is one value of each; variant.<axis>=... changes one.", _axes(conf)),
        _section("DATASETS", ((name, [conf.about("dataset", name)]) for name in conf.choices("dataset"))),
        *(_section(title, _commented(folder / f"dataset/{name}.yaml", "dataset.")) for name, title in own),
        _section("MODELS", _files(conf, "model")),
        _section("TRACKERS", _files(conf, "tracker")),
        _section("LAUNCHERS  Where the runs are made: hydra/launcher=...", _launchers(conf)),
        _section("EXPERIMENTS  Sweeps that answer a question: +experiment=...", _files(conf, "experiment")),
        _section("TRAINING", _commented(folder / "train/default.yaml", "train.")),
        _section(
            "FAIR TUNING  hydra/sweeper=fair tunes each cell on validation and confirms it on other seeds.",
            _commented(folder / "hydra/sweeper/fair.yaml", "hydra.sweeper."),
        ),
        "EXAMPLES\n" + _EXAMPLES,
        "RESULTS\n" + _RESULTS,
    ]
    return "\n".join(parts).rstrip()


def _section(title: str, rows: Rows) -> str:
    """A titled list in two columns."""
    shown = list(rows)
    left = max(len(name) for name, _ in shown) + 4
    lines = [title]
    for name, paragraphs in shown:
        wrapped = [
            line for text in paragraphs for line in textwrap.wrap(text, WIDTH - left, break_on_hyphens=False)
        ]
        lines += [f"  {name if i == 0 else '':{left - 2}}{line}" for i, line in enumerate(wrapped or [""])]
    return "\n".join(lines) + "\n"


def _keys(conf: Conf, folder: Path) -> Iterator[tuple[str, list[str]]]:
    for group, file in conf.defaults().items():
        yield f"{group}={file}", [", ".join(conf.choices(group))]
    yield from _commented(folder / "config.yaml", "")


def _commented(path: Path, prefix: str) -> Iterator[tuple[str, list[str]]]:
    """The keys of a file with the comments behind them; an indented line of comment continues the last."""
    text = re.sub(r"\n {8,}# *", " ", path.read_text("utf-8"))
    for name, value, comment in _COMMENTED.findall(text):
        yield f"{prefix}{name}={value}", [comment]


def _variants(conf: Conf) -> Iterator[tuple[str, list[str]]]:
    contents = {name: conf.read("variant", name) for name in conf.choices("variant")}
    adapters = [name for name in contents if contents[name]["method"] == "adapters"]
    shared = {
        key
        for key in conf.keys("variant", adapters[0])
        if all(key in conf.keys("variant", name) for name in adapters) and key.partition(".")[2] not in AXES
    }
    for name in [*adapters, *(name for name in contents if name not in adapters)]:
        content = contents[name]
        paper = [f"{content['paper']}:"] if content.get("paper") else []
        rates = [f"{key}={content[key]}" for key in ("lr", "targets") if key in content.get("uses", SHORT)]
        own = _options(conf, "variant", name, without=(*AXES, *(key.partition(".")[2] for key in shared)))
        yield name, [conf.about("variant", name), " ".join([*paper, *rates, *own])]
    defaults = contents[adapters[0]]
    yield (
        "",
        [
            "Those with adapters also take "
            + " ".join(f"{key}={_shown(defaults[key.partition('.')[2]])}" for key in sorted(shared))
        ],
    )


def _axes(conf: Conf) -> Iterator[tuple[str, list[str]]]:
    for axis in (*AXES, "init"):
        yield axis, [", ".join(conf.axis_values(axis))]


def _files(conf: Conf, group: str) -> Iterator[tuple[str, list[str]]]:
    for name in conf.choices(group):
        options = [] if group == "experiment" else _options(conf, group, name, without=_HIDDEN)
        yield name, [conf.about(group, name).removeprefix("Question: "), *options]


def _launchers(conf: Conf) -> Iterator[tuple[str, list[str]]]:
    yield "local", ["Worker processes on this machine; the default."]
    for name in conf.choices("hydra/launcher"):
        content = conf.read("hydra/launcher", name)
        plain = [key for key, value in content.items() if key != "_target_" and not isinstance(value, dict)]
        keys = " ".join(f"{key}={_shown(content[key])}" for key in plain)
        yield name, [conf.about("hydra/launcher", name), f"Each as hydra.launcher.<key>=...: {keys}"]


def _options(conf: Conf, group: str, name: str, *, without: Iterable[str]) -> list[str]:
    """The keys of a file with their defaults, as one paragraph."""
    content = conf.read(group, name)
    keys = [key.rpartition(".")[2] for key in conf.keys(group, name)]
    shown = [f"{group}.{key}={_shown(content[key])}" for key in keys if key not in without]
    return [" ".join(shown)] if shown else []


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
