"""Whatever became of the files of a study, its commands end with what they could do or with one sentence."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import audit, power
from experiments import data
from experiments.artifacts import open_source
from experiments.bench.fake import conclude, specs_of
from experiments.console.commands import run as sweep
from experiments.errors import UserError
from experiments.record import RunFolder
from experiments.sweep import packs, study
from experiments.sweep.lease import leases
from experiments.sweep.plan import plan

ROOT = Path(__file__).resolve().parents[3]
SPECS = specs_of("variant=lora,dora", "r=3", "seed=0,1", "study=toy")
IDS = [spec.run_id("data") for spec in SPECS]
CONTENTS = {
    "empty": b"", "null": b"null", "a list": b"[]", "a mapping": b"{}", "NaN": b'{"a": NaN}', "torn": None,
    "of other types": b'{"schema": 1, "runs": 3, "status": [], "a": {"files": 1}}', "lists": b"[[1], {}]",
    "deep": b"[" * 9999, "no UTF-8": b"\xff\xfe\x00{",
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study of two finished runs, one that failed and one under way, with what packs and commands leave."""
    root = tmp_path_factory.mktemp("whole")
    history = '{"step": 1, "loss": 0.5}\n'
    for spec, run_id in zip(SPECS[:2], IDS[:2], strict=True):
        run = RunFolder(root / "toy" / run_id)
        run.adapter.mkdir(parents=True)
        (run.adapter / "adapter_config.json").write_text("{}")
        run.predictions.write_bytes(b"rows")
        conclude(
            run, spec.as_record(), history=history, metrics={"test/accuracy": 0.5},
            data={"labels": ["no", "yes"]}, env={"versions": {"torch": "2"}},
        )  # fmt: skip
    failed = {"status": "failed", "error": {"kind": "other", "message": "so"}}
    conclude(RunFolder(root / "toy" / IDS[2]), SPECS[2].as_record(), history=history, metrics={}, **failed)
    begun = RunFolder(root / "toy" / IDS[3])
    begun.write_spec(SPECS[3].as_record())
    begun.history.write_text(history)
    study.write_requested(root / "toy", list(zip(SPECS, IDS, strict=True)))
    pack = packs.folder_of(root / "toy", IDS[2:])
    packs.write_down(pack, IDS[2:])
    (pack / "step-1.x.pt").write_bytes(b"state")
    leases(root / "toy").mkdir()
    lease = '{"token": "a", "host": "b", "pid": 3, "started": 4, "since": 5}'
    (leases(root / "toy") / f"{IDS[3]}.0").write_text(lease)
    everything(root)
    return root


def everything(root):
    """What commands do with a study: each must end, with a result or a UserError."""
    folder = root / "toy"

    def planned():
        todo = plan(SPECS, fingerprints=lambda spec: "data", root=root).todo
        packs.form(todo, folder, size=2)
        packs.states(folder, IDS)
        packs.tidy(folder)

    for action in (
        lambda: sweep("experiments.sweep", "Commands.", ["status", str(folder)]),
        lambda: audit.main([str(folder)]),
        lambda: power.main(["--pilot", str(folder)]),
        *(lambda run_id=run_id: study.specs_in(folder, [run_id]) for run_id in IDS),
        *(lambda run_id=run_id: open_source(folder / run_id) for run_id in IDS),
        planned,
    ):
        try:
            action()
        except UserError as error:
            assert len(str(error)) > 20
        except NotADirectoryError as error:  # which the command line tells in a sentence
            assert error.filename


def damage(path, way):
    content = path.read_bytes()
    path.unlink()
    if way == "a folder":
        path.mkdir()
    elif way == "a link to nothing":
        path.symlink_to("nothing")
    elif way != "gone":
        path.write_bytes(content[: len(content) // 2] if CONTENTS[way] is None else CONTENTS[way])


@pytest.mark.parametrize("way", [*CONTENTS, "gone", "a folder", "a link to nothing"])
def test_a_damaged_file_ends_no_command_without_a_sentence(whole, tmp_path, way):
    names = [path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file()]
    for name in random.Random(way).sample(names, 8):
        root = tmp_path / "copy"
        shutil.copytree(whole, root)
        damage(root / name, way)
        everything(root)
        shutil.rmtree(root)


@pytest.mark.parametrize("place", [".", "toy", f"toy/{IDS[0]}", "toy/.planned", "toy/.packs", "toy/.claims"])
def test_a_file_in_the_place_of_a_folder_is_named(whole, tmp_path, place):
    root = tmp_path / "copy"
    shutil.copytree(whole, root)
    shutil.rmtree(root / place)
    (root / place).write_text("")
    everything(root)


@pytest.mark.parametrize("what", ["a study that is a file", "a record of a later version"])
def test_run_py_refuses_such_a_study_in_a_sentence(tmp_path, what):
    """Hydra by itself shows a traceback of every error."""
    (tmp_path / "runs").mkdir()
    table = tmp_path / "t.csv"
    table.write_text("text,label\n" + "".join(f"t {i},{i % 2}\n" for i in range(100)))
    words = ["dataset=csv", f"dataset.path={table}", "study=toy"]
    if what == "a study that is a file":
        (tmp_path / "runs" / "toy").write_text("")
    else:
        [spec] = specs_of(*words)
        folder = tmp_path / "runs" / "toy" / spec.run_id(data.fingerprint(spec))
        folder.mkdir(parents=True)
        (folder / "record.json").write_text('{"schema": 2, "status": "completed"}')
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and "Error" not in done.stderr
