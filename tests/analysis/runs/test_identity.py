"""The command in a report gives, on the real command line, the very spec that it was made from."""

import json
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from analysis.runs import identity
from experiments import spec
from experiments.config import command as cli
from experiments.config import resolve

CONF = Path(__file__).resolve().parents[3] / "conf"


def resolved(words: list[str]) -> dict:
    """The spec, as recorded, of one run's command."""
    words = [word for word in cli.prepare(words, CONF) if not word.startswith("-")]
    given = dict(word.split("=", 1) for word in words)
    groups = {
        "variant": "lora",
        "model": "minilm",
        "dataset": "scipy_topics",
        "train": "default",
        "tracker": "none",
    }
    choices = {group: given.get(group, name) for group, name in groups.items()}
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", overrides=words), resolve=True)
    return json.loads(json.dumps(resolve.resolve(config, choices=choices).as_record()))


@pytest.mark.parametrize(
    "words",
    [
        ["variant=adalora", "r=4", "seed=3"],
        ["variant=full"],
        ["variant=qlora", "targets=[query,value]", "train.epochs=2"],
        ["variant=dora", "targets='re:.*(query|value)$'", "dataset=csv", "dataset.path='my data, 1.csv'"],
    ],
    ids=" ".join,
)
def test_a_command_gives_its_spec_again(words, tmp_path, monkeypatch):
    spec.register()
    monkeypatch.chdir(tmp_path)
    Path("my data, 1.csv").write_text("text,label\n")
    recorded = resolved(words)
    assert resolved(shlex.split(identity.command(recorded))[2:]) == recorded


def test_a_sweep_over_seeds_is_one_command():
    spec.register()
    command = identity.command(resolved(["variant=lora"]), r=(4, 8), seed=(0, 1, 2))
    assert "-m" in command and "r=4,8 " in command and "seed=0,1,2 " in command
    cli.prepare(shlex.split(command)[3:], CONF)
