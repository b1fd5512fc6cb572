"""Which runs share a pack, and how many; what is remembered of a pack that was interrupted."""

from dataclasses import replace

import pytest

from experiments.bench.fake import specs_of
from experiments.record import RunFolder
from experiments.spec import Train
from experiments.sweep import packs
from experiments.sweep.packs import Pack, best, form, sizes, summary

FREE = [
    "lr=0.03", "r=5", "alpha=7.5", "targets=mlp", "seed=9", "train.steps=70", "train.schedule=cosine",
    "train.clip=0.3", "variant.dropout=0.2", "variant=dora", "variant=adalora", "variant=loraplus",
    "train.head_lr=0.07", "train.evaluations=2",
]  # fmt: skip
SHARED = [
    "train.batch_size=8", "train.micro_batch_size=4", "train.precision=bf16", "dataset.max_length=24",
    "variant.storage=nf4", "train.gradient_checkpointing=true", "variant=probe",
]  # fmt: skip


def named(*words):
    """The runs of a command under readable names: variant-r-seed."""
    return tuple((s, f"{s.variant}-{s.r}-{s.seed}") for s in specs_of(*words))


def ids(found):
    return [pack.members for pack in found]


@pytest.mark.parametrize("word", FREE)
def test_what_is_free_in_a_pack(word):
    [plain], [other] = specs_of("variant=lora"), specs_of(word)
    assert plain.pack_key() == other.pack_key() is not None


@pytest.mark.parametrize("word", SHARED)
def test_what_a_pack_must_share(word):
    [plain], [other] = specs_of("variant=lora"), specs_of(word)
    assert None not in (plain.pack_key(), other.pack_key()) and plain.pack_key() != other.pack_key()


@pytest.mark.parametrize(
    "word", ["variant=full", "variant=bitfit", "variant.unfreeze_top=1", "train.base_dropout=0.1"]
)
def test_what_trains_alone(word, tmp_path):
    [spec] = specs_of(word)
    assert spec.pack_key() is None
    runs = ((spec, "a"), (replace(spec, seed=1), "b"))
    assert ids(form(runs, tmp_path, size=4)) == [("a",), ("b",)]


def test_runs_of_one_key_share_packs_of_about_equal_size_with_like_runs_side_by_side(tmp_path):
    runs = named("variant=lora,dora", "r=2,4", "seed=0,1")
    assert [len(p.runs) for p in form(runs, tmp_path, size=5)] == [4, 4]
    [whole] = form(runs, tmp_path, size=8)
    assert whole.members == (
        "dora-2-0", "dora-2-1", "dora-4-0", "dora-4-1", "lora-2-0", "lora-2-1", "lora-4-0", "lora-4-1",
    )  # fmt: skip
    assert {run for pack in form(runs, tmp_path, size=3) for run in pack.runs} == set(runs)
    assert sorted(len(p.runs) for p in form(runs, tmp_path, size=8, workers=3)) == [2, 3, 3]
    assert ids(form(runs, tmp_path, size=1)) == [(run_id,) for _, run_id in runs]


def test_runs_of_different_length_or_data_do_not_share_a_pack(tmp_path):
    short = named("variant=lora", "seed=0,1", "train.steps=20")
    runs = (*short, *((s, f"long-{s.seed}") for s in specs_of("variant=lora", "seed=0,1")))
    assert ids(form(runs, tmp_path, size=8)) == [("lora-8-0", "lora-8-1"), ("long-0", "long-1")]


def test_the_sweep_says_what_is_packed(tmp_path):
    runs = named("variant=lora", "seed=0,1,2,3,4,5,6")
    assert summary(form(runs[:6], tmp_path, size=3)) == "6 runs in 2 packs of 3"
    assert summary(form(runs, tmp_path, size=3)) == "7 runs in 1 pack of 3 and 2 packs of 2"
    assert summary(form(runs, tmp_path, size=1)) == ""
    full = tuple((s, "full") for s in specs_of("variant=full"))
    assert summary(form((*runs[:2], *full), tmp_path, size=2)) == "3 runs in 1 pack of 2 and 1 alone"


@pytest.fixture
def interrupted(tmp_path):
    """A pack of three that has a state; new runs would be grouped otherwise."""
    runs = named("variant=lora", "seed=0,1,2,3")
    members = [runs[k][1] for k in (2, 0, 3)]
    folder = packs.folder_of(tmp_path, members)
    packs.write_down(folder, members)
    (folder / "step-00000007.x.pt").touch()
    return runs, tuple(members), folder


def test_an_interrupted_pack_goes_on_with_the_same_runs_in_the_same_order(interrupted, tmp_path):
    runs, members, folder = interrupted
    assert ids(form(runs, tmp_path, size=2)) == [members, ("lora-8-1",)]
    assert ids(form(runs, tmp_path, size=1)) == [(run_id,) for _, run_id in runs]
    (folder / "step-00000007.x.pt").unlink()
    assert ids(form(runs, tmp_path, size=2)) == [("lora-8-0", "lora-8-1"), ("lora-8-2", "lora-8-3")]


def test_those_of_its_runs_that_have_ended_stay_members(interrupted, tmp_path):
    runs, members, _ = interrupted
    left = tuple(run for run in runs if run[1] != "lora-8-0")
    assert members not in ids(form(left, tmp_path, size=2)), "a run that is neither missing nor ended"
    record = {"run_id": "lora-8-0", "study": "s", "spec": {}, "status": "failed"}
    RunFolder(tmp_path / "lora-8-0").write_record(record)
    assert members not in ids(form(left, tmp_path, size=2))
    RunFolder(tmp_path / "lora-8-0").write_record({**record, "status": "diverged"})
    first, second = form(left, tmp_path, size=2)
    assert (second.members, [run_id for _, run_id in second.runs]) == (members, ["lora-8-2", "lora-8-3"])
    assert first.members == ("lora-8-1",)


def test_what_is_left_of_a_pack_goes_when_all_its_runs_have_ended(interrupted, tmp_path):
    _, members, folder = interrupted
    for run_id in members:
        packs.tidy(tmp_path)
        assert folder.exists()
        record = {"run_id": run_id, "study": "s", "spec": {}, "status": "completed"}
        RunFolder(tmp_path / run_id).write_record(record)
    packs.tidy(tmp_path)
    assert not folder.exists()


def test_a_larger_pack_must_gain_enough():
    many = {"runs": 240, "workers": 2}
    assert best({1: 1.0, 2: 1.2, 4: 2.0, 8: 4.1}, **many) == 4
    assert best({1: 1.0, 2: 1.96, 4: 3.8}, **many) == 4
    assert best({1: 1.0, 2: 1.96}, **many) == best({1: 1.0, 2: 2.5}, **many) == best({1: 1.0}, **many) == 1


def test_what_counts_is_the_worker_that_has_most_packs():
    seconds = {1: 1.0, 2: 1.84, 3: 2.7}
    assert best(seconds, runs=6, workers=2) == 3  # 1 x 2.7; in twos 2 x 1.84, alone 3 x 1
    assert best({1: 1.0, 2: 1.84}, runs=6, workers=2) == 1  # alone 3 x 1
    assert best(seconds, runs=8, workers=2) == 2  # 2 x 1.84; in threes two of three packs, not full: 2 x 2.7


def test_auto_measures_once_and_remembers(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLORA_CACHE", str(tmp_path))
    runs, measured = named("variant=lora", "seed=0,1,2,3,4,5"), []

    def measure(specs, candidates, count):
        measured.append((len(specs), list(candidates), count))
        return {1: 1.0, 2: 1.5, 3: 2.0}

    key = runs[0][0].pack_key()
    assert sizes(runs, "auto", workers=1, measure=None) == {key: 1}
    assert sizes(runs, "auto", workers=2, measure=measure) == {key: 3}
    assert sizes(runs, "auto", workers=2, measure=measure) == {key: 3}
    assert sizes(runs, "auto", workers=3, measure=None) == {key: 2}
    assert measured == [(3, [1, 2, 3], 6)]
    assert (
        sizes(runs, "off", workers=1, measure=measure) == 1
        and sizes(runs, 4, workers=1, measure=measure) == 4
    )


def test_too_little_work_is_measured_once_and_trained_alone_until_there_is_more(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLORA_CACHE", str(tmp_path))
    answers, counts = [{1: 0.1}, {1: 0.1, 2: 0.11}], []

    def measure(specs, candidates, count):
        counts.append(count)
        return answers[len(counts) - 1]

    runs = tuple(
        (replace(s, train=Train(steps=150)), n) for s, n in named("variant=lora", "seed=0,1,2,3,4,5")
    )
    for few in (runs[:2], runs[:3]):
        assert set(sizes(few, "auto", workers=1, measure=measure).values()) == {1}
    assert set(sizes(runs, "auto", workers=1, measure=measure).values()) == {2}
    assert counts == [2, 6]


def test_a_packs_name_depends_on_the_order_of_its_runs(tmp_path):
    assert packs.folder_of(tmp_path, ["a", "b"]) != packs.folder_of(tmp_path, ["b", "a"])
    assert Pack.of(named("variant=lora", "seed=3,1")).members == ("lora-8-3", "lora-8-1")
