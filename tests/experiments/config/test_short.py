"""What is printed can be typed: the command of a run is short, and the parser reads the same run from it."""

import dataclasses
import itertools
import shlex
import shutil
from pathlib import Path

import pytest

from experiments.config.groups import Conf
from experiments.config.reading import read
from experiments.config.short import command_of, words_of
from experiments.spec import from_record

ROOT = Path(__file__).resolve().parents[3]
CONF = ROOT / "conf"


def runs(*words):
    return read(words, CONF, dimensions=None).runs


def typed(command):
    """The runs of a printed command, as a shell would hand it over."""
    program, file, *words = shlex.split(command)
    assert (program, file) == ("python", "run.py")
    return runs(*words)


COMMANDS = [
    "r=8",
    "variant=dora,lora,rslora,loraplus,adalora,qlora r=3,5 seed=0,7 study=demo",
    "variant=full,probe,bitfit,zero",
    "variant=full,probe,bitfit lr=1e-4",
    "variant=zero,probe variant.storage=nf4 variant.double_quant=false",
    "lr=0.00037,1e-7 train.head_lr=0.0021",
    "variant=probe lr=0.003 train.head_lr=0.001",
    "targets=[query,value],all,[0,007]",
    r"targets=re:.*\.(query|value)$",
    "alpha=16.5,4 train.epochs=2.5,3",
    "variant=rslora,lora r=32 alpha=7,16",
    "train.steps=77 train.warmup=0 train.precision=bf16 train.micro_batch_size=4 signatures=false",
    "variant.storage=bf16 variant.dropout=0.1 variant.layers='0,2,5'",
    "variant=dora variant.storage=nf4 variant.scaling=alpha_over_sqrt_r",
    'variant.rank_pattern="query=4,layer.11.*=16"',
    "model=hf model.name=org/name model.revision=0123456789012345678901234567890123456789",
    "dataset.max_length=33 study=2024_01_15",
    "study=1e3 tracker=wandb tracker.mode=offline",
]


def test_a_rate_that_follows_the_scale_is_not_said():
    [spec] = runs("variant=rslora", "r=64", "alpha=4")
    assert command_of(spec) == "python run.py variant=rslora r=64 alpha=4"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_printed_command_asks_for_the_run_that_it_is_of(command):
    for spec in runs(*shlex.split(command)):
        printed = command_of(spec)
        assert len(printed) < 60 + 2 * len(command)
        [again] = typed(printed)
        assert again == dataclasses.replace(spec, tracker=again.tracker), printed


def test_a_run_at_the_defaults_is_said_in_no_words_but_its_own():
    [spec] = runs("variant=dora", "r=4", "seed=2", "study=demo")
    assert command_of(spec) == "python run.py variant=dora r=4 seed=2 study=demo"
    assert words_of(runs()[0], Conf(CONF)) == []


@pytest.mark.parametrize("name", ["model", "my model, 2 (new)", "1e3", "a'b", 'a"b', "$HOME", "ä=[1]"])
def test_a_model_and_a_table_in_a_folder(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    table = folder / "rows.csv"
    table.write_text("text,label\na,b\n")
    quoted = [text.replace("\\", "\\\\").replace('"', '\\"') for text in (str(folder), str(table))]
    words = [f'model.path="{quoted[0]}"', f'dataset.path="{quoted[1]}"']
    [spec] = runs("model=hf", "dataset=csv", "dataset.label=007", "dataset.text=true", *words)
    assert (spec.model_options["path"], spec.dataset_options["path"]) == (str(folder), str(table))
    printed = command_of(spec)
    assert "content" in spec.model_options
    assert "content" not in printed
    assert typed(printed) == [spec]


def test_a_repeat_is_asked_for_with_the_runs_before_it():
    third = runs("seed=4,4,4", "repeat=true")[2]
    assert typed(command_of(third))[2] == third


def test_the_run_of_a_record_and_of_tuning_is_told_as_a_plain_one():
    [spec] = runs("variant=lora", "lr=0.007", "study=s")
    tuned = dataclasses.replace(spec, phase="tune", tuned=("lr",), matched=4)
    assert command_of(from_record(tuned.as_record())) == "python run.py lr=0.007 study=s"


def test_every_file_of_the_configuration_can_be_typed():
    conf = Conf(CONF)
    variants, trackers = conf.choices("variant"), conf.choices("tracker")
    for variant, tracker in itertools.product(variants, trackers):
        [spec] = runs(f"variant={variant}", f"tracker={tracker}")
        [again] = typed(command_of(spec))
        assert again == dataclasses.replace(spec, tracker=again.tracker)


def test_a_variant_of_ones_own_is_short_with_its_folder(tmp_path):
    (tmp_path / "variant").mkdir()
    (tmp_path / "variant/mine.yaml").write_text(
        "# Mine.\ndefaults: [dora, _self_]\nname: mine\nlr: 0.01\ngamma: 0.5\n"
    )
    words = ["--config-dir", str(tmp_path), "variant=mine", "variant.gamma=2"]
    [spec] = read(words, CONF, dimensions=None).runs
    assert words_of(spec, Conf(CONF, tmp_path)) == ["variant=mine", "variant.gamma=2"]


@pytest.mark.parametrize("count", [1, 2])
def test_files_of_added_folders_can_be_typed_with_what_adds_the_folders(count, tmp_path):
    folders = [tmp_path / f"my files, {i}" for i in range(count)]
    for i, folder in enumerate(folders):
        (folder / "variant").mkdir(parents=True)
        (folder / f"variant/mine_{i}.yaml").write_text(
            f"# Mine.\ndefaults: [dora, _self_]\nname: mine_{i}\nlr: 0.01\n"
        )
    added = [f"--config-dir={folders[0]}"]
    if count > 1:
        added = [f"hydra.searchpath=[{','.join(repr(f'file://{folder}') for folder in folders)}]"]
    for spec in runs(*added, f"variant={','.join(f'mine_{i}' for i in range(count))}", "r=5"):
        printed = command_of(spec)
        assert f"variant={spec.variant} r=5" in printed
        assert typed(printed) == [spec] == typed(command_of(from_record(spec.as_record())))
        [plain] = runs("variant=dora", "lr=0.01", "r=5")
        assert dataclasses.replace(spec, variant="dora", config_dirs=()).hash("") == plain.hash("")


def test_the_command_of_a_run_whose_added_folder_is_gone_is_spelled_out(tmp_path):
    (tmp_path / "variant").mkdir()
    (tmp_path / "variant/mine.yaml").write_text("# Mine.\ndefaults: [dora, _self_]\nname: mine\nlr: 0.01\n")
    [spec] = runs(f"--config-dir={tmp_path}", "variant=mine")
    shutil.rmtree(tmp_path)
    assert f"--config-dir={tmp_path}" in command_of(spec) and "variant.delta=dora" in command_of(spec)
