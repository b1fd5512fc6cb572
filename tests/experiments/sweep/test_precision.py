"""train.precision=auto: settled once, the same for all runs of a study, never silently."""

import json
from pathlib import Path

import pytest

from experiments.bench.fake import CONF, specs_of
from experiments.config.reading import read
from experiments.errors import UserError
from experiments.files import write_json
from experiments.sweep import precision

AUTO = ("variant=lora,dora", "train.precision=auto", "study=toy")


@pytest.fixture
def timed(tmp_path, monkeypatch):
    """A machine whose steps take so long: `timed(bf16=0.5)`; gives the specs that were timed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABLORA_CACHE", str(tmp_path / "cache"))
    asked = []

    def make(*, fp32=1.0, bf16, code=0):
        def run(command, *, input, **_):
            asked.append(json.loads(input))
            done = json.dumps({"fp32": fp32, "bf16": bf16})
            return type("Done", (), {"returncode": code, "stdout": done, "stderr": "Oh\nno"})

        monkeypatch.setattr(precision.subprocess, "run", run)
        return asked

    return make


def precisions(command):
    return {(run.train.precision, run.axes["storage"]) for run in command.runs}


@pytest.mark.parametrize(("bf16", "chosen"), [(0.5, "bf16"), (0.94, "bf16"), (0.96, "fp32"), (3.0, "fp32")])
def test_the_faster_one_is_taken_if_it_saves_enough_and_said(timed, bf16, chosen):
    asked = timed(bf16=bf16)
    command = read(AUTO, CONF)
    assert precisions(command) == {(chosen, chosen)} and len(asked) == 1
    assert command.notes == (
        f"train.precision=auto is {chosen}: a step of lora-r8-qv-scipy_topics in bf16 takes {bf16:.2f} of "
        "one in fp32 on this machine.",
    )
    assert command.runs == specs_of("variant=lora,dora", f"train.precision={chosen}", "study=toy")
    assert f"train.precision={chosen}" in command.for_hydra()
    assert not any("auto" in word for word in command.for_hydra())


def test_it_is_timed_once_for_a_machine_and_a_shape(timed):
    asked = timed(bf16=0.5)
    for _ in range(2):
        read(AUTO, CONF)
    timed(bf16=9.0)
    assert precisions(read((*AUTO[:2], "study=other"), CONF)) == {("bf16", "bf16")} and len(asked) == 1
    assert precisions(read((*AUTO, "train.batch_size=4"), CONF)) == {("fp32", "fp32")} and len(asked) == 2


def test_a_study_keeps_what_its_runs_have_and_is_not_mixed(timed):
    timed(bf16=0.5)
    for name, kind in (("a", "fp32"), ("b", "fp32"), ("c", "bf16")):
        if name == "c":
            command = read(AUTO, CONF)
            assert precisions(command) == {("fp32", "fp32")}
            assert command.notes == ("train.precision=auto is fp32: the study has runs in it.",)
        Path("runs/toy", name).mkdir(parents=True)
        write_json(Path("runs/toy", name, "spec.json"), {"train": {"precision": kind}})
    with pytest.raises(
        UserError, match=r"study=toy\s+has runs in bf16 and\s+fp32: give train\.precision=bf16"
    ):
        read(AUTO, CONF)


def test_a_fixed_storage_stays_and_other_words_too(timed):
    timed(bf16=0.5)
    assert precisions(read(("variant=qlora", *AUTO[1:]), CONF)) == {("bf16", "nf4")}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train.precision=auto,fp32"], "one value for all runs of a study"),
        (
            ["train.precision=auto", "hydra/launcher=slurm"],
            "hydra/launcher=slurm has the runs done elsewhere",
        ),
    ],
)
def test_what_would_mix_or_measure_elsewhere_is_refused(timed, words, told):
    timed(bf16=0.5)
    with pytest.raises(UserError) as refused:
        read(["variant=lora", *words], CONF)
    assert told in " ".join(str(refused.value).split())


def test_a_step_that_cannot_be_timed_is_no_answer(timed):
    timed(bf16=0.5, code=1)
    with pytest.raises(UserError, match=r"no step could be timed here \(no\)\. Give fp32 or bf16"):
        read(AUTO, CONF)


def test_a_real_step_is_timed_both_ways(tiny_bert, toy_csv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABLORA_CACHE", str(tmp_path / "cache"))
    words = ["model=hf", f"model.path={tiny_bert}", "dataset=csv", f"dataset.path={toy_csv}"]
    words += ["dataset.text=text", "dataset.label=label", "dataset.max_length=16", "train.batch_size=4"]
    command = read([*AUTO, *words], CONF)
    [seconds] = json.loads((tmp_path / "cache/precision.json").read_text()).values()
    faster = seconds["bf16"] < 0.95 * seconds["fp32"]
    assert min(seconds.values()) > 0
    assert precisions(command) == {("bf16", "bf16") if faster else ("fp32", "fp32")}
