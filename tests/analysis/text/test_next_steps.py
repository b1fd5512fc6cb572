"""The commands that a report gives to settle what is open are typed as they stand, whatever the model."""

import itertools
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from analysis import stats
from analysis.compare.verdicts import verdicts
from analysis.runs import load
from analysis.runs.cells import cells as cells_of
from analysis.text import next_steps
from analysis.text.next_steps import commands
from experiments.config.reading import read
from experiments.config.short import command_of

CONF = Path(__file__).resolve().parents[3] / "conf"
MODELS = {
    "package": ["model=minilm"],
    "hub": ["model=hf", "model.name=org/name", f"model.revision={'0123' * 10}"],
    "folder": ["model=hf", "model.path='my models, 1'", "dataset=csv", 'dataset.path="it\'s mine.csv"'],
}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The runs of a command, in a folder with a model and some data."""
    monkeypatch.chdir(tmp_path)
    Path("my models, 1").mkdir()
    Path("my models, 1/model.safetensors").write_bytes(b"weights")
    Path("it's mine.csv").write_text("text,label\n")
    return lambda *words: read(words, CONF, dimensions=None).runs


def steps(writer):
    study = load.read(writer.root)
    cells = cells_of(study)
    return commands(study, cells, verdicts(study, cells, baseline="lora"))


def write(writer, specs, **more):
    for spec in specs:
        record = spec.as_record() | {"study": writer.root.name}
        writer.run(record | more, phase=spec.phase, command=command_of(spec))


def typed(command):
    program, file, *words = shlex.split(command)
    assert (program, file) == ("python", "run.py")
    return words


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "more",
    [[], ["targets=[query,value]", "alpha=5.5"], ["train.epochs=2.5", "lr=0.0007", "variant.dropout=0.05"]],
    ids=" ".join,
)
def test_what_is_typed_are_the_cells_with_three_seeds(writer, runs, model, more):
    w = writer()
    words = ["variant=lora,dora,rslora", "r=4,6", *MODELS[model], *more, f"study={w.root.name}"]
    write(w, runs(*words, "seed=0,2"))
    found = itertools.chain(*(runs(*typed(command)) for command in steps(w)))
    assert {*found} == {*runs(*words, "seed=0,1,2")}


@pytest.mark.parametrize("model", MODELS)
def test_what_was_tuned_is_tuned_again_from_what_was_tried(writer, runs, model):
    w = writer()
    words = ["variant=lora,dora", "r=4", *MODELS[model], f"study={w.root.name}"]
    rates = "lr=0.0005,0.001,0.002"
    tuned = [s for s in runs(*words, rates, "seed=100") if s.lr != 0.001]
    for phase, specs in (
        ("tune", [*tuned, *runs(*words, "lr=0.001", "seed=100")]),
        ("confirm", runs(*words, "lr=0.001", "seed=0,1")),
    ):
        for spec in specs:
            record = spec.as_record() | {
                "study": w.root.name,
                "phase": phase,
                "tuned": ["lr", "train.head_lr"],
            }
            w.run(record, 0.7 if spec.lr == 0.001 else 0.6, phase=phase, command=command_of(spec))
    found = []
    for command in steps(w):
        given = typed(command)
        assert {"hydra/sweeper=fair", "hydra.sweeper.tune_seeds=[100]"} <= {*given}
        found += runs(*given)
    assert {(s.variant, s.lr, s.seed) for s in found} == {
        *itertools.product(("lora", "dora"), (0.0005, 0.001, 0.002), (0, 1, 2))
    }
    assert {(s.model_options, s.dataset_options, s.r) for s in found} == {
        (s.model_options, s.dataset_options, s.r) for s in runs(*words)
    }


def test_seeds_are_asked_for_only_where_seeds_are_what_is_lacking():
    """Against the power of fresh seeds; a difference that tuning leaves open no seed settles."""
    sd, there, margin = 0.02, 3, 0.01
    noise = stats.Spread(sd, 1e-6, 500).noise(there)
    row = {"found": SimpleNamespace(noise=noise), "n_seeds": there, "share": 1.0, "margin": margin}
    enough = next(n for n in range(4, 41) if stats.detectable(n, stats.Spread(sd, 1e-6, 500)) <= margin)
    assert next_steps._seeds_needed(row) == enough > there
    lucky = row | {"found": SimpleNamespace(noise=noise._replace(tuning=7e-5))}
    assert next_steps._seeds_needed(lucky) is None
    assert next_steps._seeds_needed(lucky, tuned_well=True) == enough
    certain = row | {"found": SimpleNamespace(noise=noise._replace(seeds=1e-9))}
    assert next_steps._seeds_needed(certain) == there + 1  # never what is there already
    many = row | {"found": SimpleNamespace(noise=stats.Spread(sd, 1e-6, 500).noise(40)), "n_seeds": 40}
    assert next_steps._seeds_needed(many) is None  # nor more than are sensible
