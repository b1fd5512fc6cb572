"""The command in a report gives, on the real command line, the very run that it was made from."""

import json
import shlex
from pathlib import Path

import pytest

from analysis.runs import identity
from experiments.config.reading import read
from experiments.config.short import command_of

CONF = Path(__file__).resolve().parents[3] / "conf"

COMMANDS = [
    ["variant=adalora", "r=4", "seed=3"],
    ["variant=full", "lr=1e-4"],
    ["variant=zero"],
    ["variant=probe", "variant.storage=nf4", "variant.double_quant=false"],
    ["variant=qlora", "targets=[query,value]", "train.epochs=2"],
    ["variant=dora", "targets='re:.*(query|value)$'", "dataset=csv", "dataset.path='my data, 1.csv'"],
    ["variant=lora", "variant.rank_pattern='query=4,value=16'", "study=2024_01_15"],
    ["model=hf", "model.path=folder", "dataset=csv", "dataset.path={train:rows.csv,test:'my data, 1.csv'}"],
    ["model=hf", "model.name=org/name", f"model.revision={'0123' * 10}"],
]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The runs of a command in a folder with a model and some data."""
    monkeypatch.chdir(tmp_path)
    for name in ("my data, 1.csv", "rows.csv"):
        Path(name).write_text("text,label\n")
    Path("folder").mkdir()
    (tmp_path / "folder/model.safetensors").write_bytes(b"weights")
    return lambda *words: read(words, CONF, dimensions=None).runs


def recorded(spec, *, old=False):
    """What a record says of a spec; an old one has no command."""
    content = {"spec": spec.as_record()} | ({} if old else {"command": command_of(spec)})
    return json.loads(json.dumps(content))


def typed(command):
    """The words of a command behind run.py."""
    words = shlex.split(command)
    assert words[:2] == ["python", "run.py"]
    return words[2:]


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_gives_its_run_again(words, old, runs):
    [spec] = runs(*words)
    command = identity.command(recorded(spec, old=old))
    assert runs(*typed(command)) == [spec]
    assert old or len(command) < 100 + len(" ".join(words))


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
def test_a_sweep_over_seeds_and_ranks_is_one_command(old, runs):
    [spec] = runs("variant=loraplus", "r=4", "lr=0.003")
    command = identity.command(recorded(spec, old=old), r=[4, 8], seed=[0, 1, 2])
    found = runs(*typed(command))
    assert [(s.r, s.seed) for s in found] == [(r, seed) for r in (4, 8) for seed in (0, 1, 2)]
    assert {(s.variant, s.lr) for s in found} == {("loraplus", 0.003)}


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
def test_what_is_tuned_again_is_left_out(old, runs):
    [spec] = runs("variant=loraplus", "lr=0.003", "train.head_lr=0.02", "variant.lr_ratio=5", "seed=2")
    content = recorded(spec, old=old)
    command = identity.command(
        content, without=("lr", "train.head_lr", "variant_options.lr_ratio"), seed="SEED"
    )
    assert "seed=SEED" in command
    [again] = runs(*typed(command.replace("SEED", "7")))
    assert (again.lr, again.options["lr_ratio"], again.seed) == (0.00125, 8.0, 7)
    words = ["hydra/sweeper=fair", "lr=0.001,0.002", "hydra.sweeper.tune_seeds=[100,101]"]
    assert len(runs(*typed(command.replace("SEED", "7")), *words)) == 2
