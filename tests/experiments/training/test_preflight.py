"""Before a sweep starts: is there room on the disk for what its runs will leave there?"""

from collections import namedtuple

import pytest

from experiments.bench.fake import specs_of
from experiments.record import read
from experiments.sweep.plan import kinds
from experiments.sweep.worker import check
from experiments.training import preflight
from experiments.training.loader import Loader

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def on_a_table(toy_csv, tiny_bert):
    """The specs of a command's words, on a small table."""
    return lambda *words: specs_of(
        *words, "model=hf", f"model.path={tiny_bert}", "dataset=csv", f"dataset.path={toy_csv}",
        "dataset.text=text", "dataset.label=label", "dataset.max_length=16",
    )  # fmt: skip


@pytest.fixture
def cells(on_a_table):
    """Three seeds of two ranks of LoRA, and the parameters that one run of each trains."""
    specs = on_a_table("variant=lora", "r=2,3", "seed=0,1,2")
    trained = {r: 4 * (r * 24 + 24 * r) + 24 * 2 + 2 for r in (2, 3)}
    return kinds(specs), trained


def test_runs_that_leave_the_same_are_counted_together(cells):
    found, _ = cells
    assert {spec.r: count for spec, count in found.items()} == {2: 3, 3: 3}


def test_a_sweep_that_cannot_fit_is_refused_with_both_figures(cells, tmp_path, monkeypatch):
    found, trained = cells
    least = 4 * 3 * sum(trained.values()) + 2 * 3 * 12 * trained[3]  # adapters; states of two workers
    for free, fits in [(least, False), (10**9, True)]:
        monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder, free=free: Usage(0, 0, free))
        problems = preflight.check_room(preflight.check_runs(found, Loader()), tmp_path, workers=2)
        assert (problems == []) is fits
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: Usage(0, 0, 0))
    [problem] = preflight.check_room(preflight.check_runs(found, Loader()), tmp_path, workers=2)
    assert "0.0 GB left" in problem and str(tmp_path) in problem


def test_room_for_checkpoints_is_that_of_the_packs_and_lone_runs_that_are_under_way(tmp_path, monkeypatch):
    """Two workers, packs of up to three: a run that trains alone has no company that needs as much."""
    checked = preflight.Checked([], [], results=5, packed=[2, 9, 4, 3, 1], alone=[100, 7])
    needs = {(1, 1): 100, (2, 1): 109, (1, 3): 100, (2, 3): 116, (3, 3): 123, (4, 3): 126, (9, 9): 126}
    for (workers, together), states in needs.items():
        for free in (states + 4, states + 5):
            monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _, free=free: Usage(0, 0, free))
            found = preflight.check_room(checked, tmp_path, workers=workers, together=together)
            assert (found == []) is (free == states + 5)


@pytest.mark.parametrize("variant", ["prefix", "ptuning_v2", "prompt"])
def test_what_leaves_a_text_too_few_positions_is_refused_before_the_start(variant, on_a_table):
    [fits] = on_a_table(f"variant={variant}", "variant.length=50")
    [long] = on_a_table(f"variant={variant}", "variant.length=61")
    assert preflight.check_runs({fits: 1}, Loader()).problems == []
    [problem] = preflight.check_runs({long: 1}, Loader()).problems
    assert "the 61 of variant.length do not fit into the 64 positions" in problem
    assert "dataset.max_length=3" in problem


def test_each_kind_of_cell_is_attached_once(cells, tmp_path, monkeypatch):
    found, _ = cells
    attached = []
    monkeypatch.setattr(
        preflight, "attach", lambda *a, real=preflight.attach: (attached.append(a[1][0].r), real(*a))[1]
    )
    assert check(found, tmp_path, (2, 1), Loader())[0] == []
    assert sorted(attached) == [2, 3]


def test_what_is_doubtful_about_a_method_is_noted_and_recorded(on_a_table, finished):
    found = kinds(on_a_table("variant=adalora", "variant.t_init=0", "r=2"))
    said = [note for note in preflight.check_runs(found, Loader()).notes if "t_init" in note]
    assert said == ["t_init is 0: AdaLoRA prunes from its second step on, hardly any scores."]
    assert said[0] in read(finished("adalora", t_init=0))["notes"]
    assert not any("t_init" in note for note in read(finished("adalora", t_init=2))["notes"])
