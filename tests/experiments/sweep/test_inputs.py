"""A run is trained on the model and the data that it was planned on, or it is not trained under that name."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from experiments import data
from experiments.config import resolve
from experiments.errors import UserError
from experiments.record import RunFolder
from experiments.spec import from_record
from experiments.sweep.lease import acquire, leases
from experiments.sweep.plan import check_data, plan
from experiments.sweep.worker import Events, Worker


@pytest.fixture
def command(tiny_bert, toy_csv, tmp_path):
    """A run on a model and data that a test may change: the words, the folder and the table."""
    folder = shutil.copytree(tiny_bert, tmp_path / "base")
    words = f"variant=lora r=2 train.steps=2 train.evaluations=1 model=hf model.path={folder} dataset=csv "
    return words + f"dataset.path={toy_csv}", folder, toy_csv


@pytest.fixture
def forget():
    """What a new process does not know of data and models that another read before."""

    def forget():
        data._read.cache_clear()
        data._fingerprint.cache_clear()
        resolve._identified.known.clear()

    forget()
    return forget


def changed(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {**tensors, "pooler.dense.bias": tensors["pooler.dense.bias"] + 1}, folder / "model.safetensors"
    )


def done(spec, run_id, study):
    """What a worker makes of an order for the run."""
    order = {"run": spec.as_record(), "run_id": run_id, "checkpoint": {"seconds": 60.0, "steps": None}}
    with acquire(leases(study), run_id) as lease:
        return Worker(Events(io.StringIO())).execute(order, RunFolder(study / run_id), lease)


def planned(cells_of, words, root):
    [(spec, run_id)] = plan(cells_of(words), fingerprints=data.fingerprint, root=root).todo
    return spec, run_id


def test_a_merged_model_is_another_than_its_base(command, cells_of, tmp_path):
    words, base, _ = command
    merged = shutil.copytree(base, tmp_path / "merged")
    changed(merged)
    specs = cells_of(words.replace(f"={base}", f"={base},{merged}"))
    assert len(plan(specs, fingerprints=data.fingerprint, root=tmp_path).todo) == 2


@pytest.mark.parametrize(
    ("what", "told"),
    [("model", "no longer holds what this run was planned"), ("data", "planned on other data")],
)
def test_what_changed_after_planning_is_not_trained_on(command, cells_of, tmp_path, forget, what, told):
    words, folder, table = command
    spec, run_id = planned(cells_of, words, tmp_path)
    forget()  # a worker that starts anew
    if what == "model":
        changed(folder)
    else:
        table.write_text(table.read_text().replace("good 7,yes", "good 7,no"))
    found = done(spec, run_id, tmp_path)
    assert (found["status"], found["error"]["kind"]) == ("failed", "user")
    assert told in found["error"]["message"] and "\n" not in found["error"]["message"]
    forget()
    again, other = planned(cells_of, words, tmp_path)
    assert other != run_id
    assert done(again, other, tmp_path)["status"] == "completed"


def test_what_has_not_changed_is_trained_on(command, cells_of, tmp_path, forget):
    spec, run_id = planned(cells_of, command[0], tmp_path)
    forget()
    assert done(spec, run_id, tmp_path)["status"] == "completed"


def test_a_run_of_another_name_is_refused_by_its_data():
    spec = from_record(record_of_a_run())
    check_data(spec, spec.run_id("then"), "then")
    with pytest.raises(UserError, match=r"planned on other data than dataset=toy holds now \(here\.csv\)"):
        check_data(spec, spec.run_id("then"), "now")


def record_of_a_run(**model):
    return {
        "study": "old", "variant": "lora", "method": "adapters", "r": 2, "alpha": 16.0, "targets": "qv",
        "model": "hf", "model_options": {"allow_pickle": False, **model}, "dataset": "toy",
        "dataset_options": {"path": "here.csv"}, "lr": 0.01, "seed": 0, "tracker": {"name": "none"},
        "train": {}, "variant_axes": {}, "variant_options": {},
    }  # fmt: skip


OLD, NEW, COMMIT = "0123456789abcdef", "ab" * 32, "c0ffee00" * 5


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"path": "base", "content": OLD}, {"path": "base", "content": NEW}),
        ({"name": "some/one"}, {"name": "some/one", "revision": COMMIT}),
        ({"name": "some/one", "revision": "dev"}, {"name": "some/one", "revision": COMMIT}),
    ],
)
def test_a_study_of_an_older_version_is_not_mixed_with_new_names(tmp_path, before, now):
    old, new = from_record(record_of_a_run(**before)), from_record(record_of_a_run(**now))
    RunFolder(tmp_path / "old" / old.run_id("data")).write_spec(old.as_record())
    with pytest.raises(UserError, match=rf"study=old holds {old.run_id('data')}, named by an older version"):
        plan([new], fingerprints=lambda spec: "data", root=tmp_path)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"path": "base", "content": NEW}, {"path": "base", "content": NEW[::-1]}),
        ({"name": "some/one", "revision": COMMIT}, {"name": "some/one", "revision": COMMIT[::-1]}),
        ({"name": "mini", "sha256": NEW}, {"name": "mini", "sha256": NEW[::-1]}),
        ({"path": "other", "content": OLD}, {"path": "base", "content": NEW}),
    ],
)  # fmt: skip
def test_models_that_are_named_by_all_they_are_stand_side_by_side(tmp_path, before, now):
    old, new = from_record(record_of_a_run(**before)), from_record(record_of_a_run(**now))
    RunFolder(tmp_path / "old" / old.run_id("data")).write_spec(old.as_record())
    assert len(plan([new], fingerprints=lambda spec: "data", root=tmp_path).todo) == 1


def test_an_older_run_goes_on_under_its_own_name(tmp_path):
    """`retry` gives its spec as it stands in its folder."""
    old = from_record(record_of_a_run(path="base", content=OLD))
    run_id = old.run_id("data")
    RunFolder(tmp_path / "old" / run_id).write_spec(old.as_record())
    assert [name for _, name in plan([old], fingerprints=lambda spec: "data", root=tmp_path).todo] == [run_id]


def test_a_record_of_a_failure_is_no_result(command, cells_of, tmp_path, forget):
    """The same command, once the model is back, makes the run that was refused."""
    words, folder, _ = command
    kept = (folder / "model.safetensors").read_bytes()
    spec, run_id = planned(cells_of, words, tmp_path)
    forget()
    changed(folder)
    assert done(spec, run_id, tmp_path)["status"] == "failed"
    (folder / "model.safetensors").write_bytes(kept)
    forget()
    assert planned(cells_of, words, tmp_path) == (spec, run_id)
    assert done(spec, run_id, tmp_path)["status"] == "completed"


def test_a_run_on_some_of_the_rows_is_trained_on_what_it_was_planned_on(command, cells_of, forget, tmp_path):
    words, *_ = command
    spec, run_id = planned(cells_of, f"{words} dataset.limit=12", tmp_path)
    forget()
    record = done(spec, run_id, tmp_path)
    assert record["status"] == "completed" and record["data"]["train_rows"] == 12


def test_rows_as_read_have_the_hash_of_rows_as_remembered_with_other_datasets_beside_them(
    toy_csv, spec_of, forget
):
    also = {"trec": str(toy_csv)}
    spec = spec_of(dataset="csv", path=str(toy_csv), also=also, limit=12)
    assert data.fingerprint(spec, as_read=True) == data.fingerprint(spec)
    assert data.fingerprint(spec) != data.fingerprint(spec_of(dataset="csv", path=str(toy_csv)))


@pytest.mark.parametrize("sweeper", ["grid", "fair"])
def test_data_that_cannot_be_used_is_refused_in_a_sentence(tmp_path, sweeper):
    (tmp_path / "bad.csv").write_text("a,b\nx,y\n")
    root = Path(__file__).resolve().parents[3]
    words = ["variant=lora", f"hydra/sweeper={sweeper}", "dataset=csv", "dataset.path=bad.csv"]
    done = subprocess.run(
        [sys.executable, str(root / "run.py"), *words],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)},
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stdout + done.stderr
    assert done.stderr.startswith("error: none of the columns a, b is named like a text")
