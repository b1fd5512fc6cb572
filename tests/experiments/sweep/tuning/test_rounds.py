"""Fair tuning from end to end with a stand-in for training: rounds, resumption, detached launchers."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import data
from experiments.config.reading import read
from experiments.errors import UserError
from experiments.record import RunFolder
from experiments.sweep.tuning import rounds

CONF = Path(__file__).resolve().parents[4] / "conf"
SETTINGS = {
    "tune": ["lr"], "factors": [0.5, 1, 2], "tune_seeds": [100, 101], "confirm_seeds": [0, 1, 2],
    "extensions": 3, "launched": -1,
}  # fmt: skip
BEST = {"lora": 0.004, "dora": 0.016, "full": 0.0005, "probe": 0.02}  # their defaults are a quarter for dora


class Launcher:
    """Trains by a formula; `limit` runs, then it is interrupted."""

    def __init__(self, root, *, limit=None, status=lambda spec: "completed"):
        self.root, self.limit, self.status = root, limit, status
        self.rounds, self.trained = [], []

    def launch_specs(self, specs, *, at_end="report"):
        self.rounds.append((specs[0].phase, len(specs), at_end))
        code = 0
        for spec in specs:
            folder = RunFolder(self.root / spec.study / spec.run_id("rows"))
            if folder.record.exists() and json.loads(folder.record.read_text())["status"] != "failed":
                continue
            if self.limit == len(self.trained):
                return 130
            self.trained.append(spec)
            status = self.status(spec)
            code = max(code, int(status == "failed"))
            folder.path.mkdir(parents=True, exist_ok=True)
            result = {"metrics": {"validation/accuracy": accuracy(spec)}} if status == "completed" else {}
            facts = {
                "run_id": folder.path.name,
                "study": spec.study,
                "spec": spec.as_record(),
                "status": status,
            }
            folder.write_record({**facts, "primary": {"metric": "accuracy", "goal": "max"}, **result})
        return code


def accuracy(spec):
    return 0.8 - 0.05 * math.log2(spec.lr / BEST[spec.variant]) ** 2 + 0.001 * (spec.seed - 100)


class Detached(Launcher):
    """Returns before anything has run; `work` is the cluster."""

    detached = True

    def __init__(self, root, **options):
        super().__init__(root, **options)
        self.queue, self.follow_ups = [], []

    def launch_specs(self, specs, *, at_end="report"):
        self.queue = list(specs)
        return 0

    def launch_after(self, command):
        self.follow_ups.append(command)

    def work(self):
        super().launch_specs(self.queue)


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    monkeypatch.setattr(data, "fingerprint", lambda spec: "rows")


def command(text):
    return read(f"-m study=s {text}".split(), CONF, dimensions=None)


def fair(text, launcher, **settings):
    return rounds.run(command(text), SETTINGS | settings, launcher, root=launcher.root)


def confirmed(launcher):
    return {(s.variant, s.r, s.lr, s.seed) for s in launcher.trained if s.phase == "confirm"}


def points(launcher, variant):
    return {s.lr for s in launcher.trained if s.phase == "tune" and s.variant == variant}


def test_every_cell_is_tuned_alike_and_confirmed_at_its_own_rate(tmp_path):
    launcher = Launcher(tmp_path)
    assert fair("variant=lora,dora r=4,8", launcher) == 0
    assert [round_[0] for round_ in launcher.rounds] == ["tune", "tune", "tune", "confirm"]
    assert points(launcher, "dora") == {0.002, 0.004, 0.008, 0.016, 0.032}
    assert len(points(launcher, "lora")) == len(points(launcher, "dora"))
    assert min(points(launcher, "lora")) == 0.002 and max(points(launcher, "lora")) == 0.008
    assert confirmed(launcher) == {
        (variant, r, BEST[variant], seed)
        for variant in ("lora", "dora")
        for r in (4, 8)
        for seed in (0, 1, 2)
    }
    assert {s.seed for s in launcher.trained if s.phase == "tune"} == {100, 101}
    assert [at_end for _, _, at_end in launcher.rounds] == ["nothing"] * 3 + ["report"]


def test_without_seeds_to_confirm_tuning_is_all(tmp_path, capsys):
    launcher = Launcher(tmp_path)
    assert fair("variant=lora,dora", launcher, confirm_seeds=[]) == 0
    assert [round_[0] for round_ in launcher.rounds] == ["tune"] * 3
    assert "dora-r8-qv-scipy_topics: lr=0.016 of 5 points" in capsys.readouterr().out
    lost = Launcher(tmp_path / "lost", status=lambda spec: "diverged")
    assert fair("variant=lora", lost, confirm_seeds=[]) == 1


def test_the_records_say_what_was_tuned(tmp_path):
    launcher = Launcher(tmp_path)
    fair("variant=lora,probe,full", launcher)
    assert {(s.variant, s.tuned) for s in launcher.trained} == {
        ("lora", ("lr",)),
        ("full", ("lr",)),
        ("probe", ("lr", "train.head_lr")),  # the head is all it has: its rate follows
    }
    assert all(s.train.head_lr == s.lr for s in launcher.trained if s.variant == "probe")


def test_the_same_command_finds_what_is_done(tmp_path):
    fair("variant=lora,dora", Launcher(tmp_path))
    again = Launcher(tmp_path)
    assert fair("variant=lora,dora", again) == 0
    assert again.trained == []
    assert [round_[0] for round_ in again.rounds] == ["confirm"]  # for the table and the report


@pytest.mark.parametrize("limit", [0, 1, 5, 12, 13, 17, 21, 24])
def test_interrupted_anywhere_it_goes_on_to_the_same_end(tmp_path, limit):
    whole = Launcher(tmp_path / "whole")
    fair("variant=lora,dora", whole)
    first, second = (Launcher(tmp_path / "cut", limit=n) for n in (limit, None))
    assert fair("variant=lora,dora", first) == 130
    assert fair("variant=lora,dora", second) == 0
    assert len(first.trained) == limit
    assert set(first.trained).isdisjoint(second.trained)
    assert {*first.trained, *second.trained} == set(whole.trained)


def test_seeds_and_rates_of_the_command_go_first(tmp_path):
    launcher = Launcher(tmp_path)
    fair("variant=lora lr=1e-3,null,5e-3 seed=7,8", launcher)
    assert points(launcher, "lora") == {0.001, 0.004, 0.005}
    assert {s.seed for s in launcher.trained if s.phase == "confirm"} == {7, 8}


def test_another_key_is_tuned_with_the_rate(tmp_path):
    launcher = Launcher(tmp_path)
    text = "variant=lora,dora train.weight_decay=0,0.1"
    assert fair(text, launcher, tune=["lr", "train.weight_decay"], extensions=0) == 0
    tried = {(s.variant, s.lr, s.train.weight_decay) for s in launcher.trained if s.phase == "tune"}
    assert len(tried) == 2 * 3 * 2
    assert {s.tuned for s in launcher.trained} == {("lr", "train.weight_decay")}
    assert {s.train.weight_decay for s in launcher.trained if s.phase == "confirm"} == {0.0}


def test_a_method_without_a_rate_is_confirmed_and_nothing_else(tmp_path):
    BEST["zero"] = 1.0
    launcher = Launcher(tmp_path)
    launcher.status = lambda spec: "diverged"  # has no say: what zero scores is not read
    assert fair("variant=zero", launcher) == 0
    assert {(s.phase, s.tuned) for s in launcher.trained} == {("confirm", ())}


def test_a_rate_that_diverged_or_failed_on_any_seed_is_not_chosen(tmp_path):
    for status in ("diverged", "failed"):
        bad = lambda s, how=status: how if (s.lr, s.seed) == (0.004, 101) else "completed"  # noqa: E731
        launcher = Launcher(tmp_path / status, status=bad)
        assert fair("variant=lora", launcher, extensions=0) == int(status == "failed")
        assert {lr for _, _, lr, _ in confirmed(launcher)} == {0.002}


def test_a_cell_that_lost_every_rate_is_told_and_not_confirmed(tmp_path, capsys):
    broken = Launcher(tmp_path, status=lambda s: "failed" if s.variant == "dora" else "completed")
    assert fair("variant=lora,dora", broken) == 1
    assert {variant for variant, *_ in confirmed(broken)} == {"lora"}
    assert "dora-r8-qv-scipy_topics: every one of its 3 points failed" in capsys.readouterr().err
    mended = Launcher(tmp_path)
    assert fair("variant=lora,dora", mended) == 0
    assert {variant for variant, *_ in confirmed(mended)} == {"dora"}  # what failed is tried again


def test_a_limit_that_is_reached_is_told(tmp_path, capsys):
    fair("variant=dora", Launcher(tmp_path), extensions=0)
    assert "still on an edge" in capsys.readouterr().out


def test_a_detached_launcher_is_followed_up_round_by_round(tmp_path):
    local = Launcher(tmp_path / "local")
    fair("variant=lora,dora", local)
    cluster, launched, jobs = Detached(tmp_path / "cluster"), -1, 0
    while True:
        cluster.follow_ups.clear()
        assert fair("variant=lora,dora", cluster, launched=launched) == 0
        if not cluster.follow_ups:
            break
        cluster.work()
        [[_, *words]] = cluster.follow_ups
        launched = int(words[-1].removeprefix("hydra.sweeper.launched="))
        jobs += 1
    assert jobs == 4
    assert words[:-1] == ["-m", "experiments", "run", "-m", "study=s", "variant=lora,dora"]
    assert set(cluster.trained) == set(local.trained)


def test_what_a_cluster_loses_for_good_ends_the_study_and_is_told(tmp_path):
    cluster, launched = Detached(tmp_path), -1
    codes = []
    for _ in range(9):
        cluster.follow_ups.clear()
        codes.append(fair("variant=lora", cluster, launched=launched))
        if not cluster.follow_ups:
            break
        cluster.queue = [s for s in cluster.queue if s.seed != 2]  # this job dies whenever it is sent
        cluster.work()
        launched = int(cluster.follow_ups[0][-1].split("=")[1])
    assert codes == [0, 0, 1]
    assert {s.seed for s in cluster.trained if s.phase == "confirm"} == {0, 1}


@pytest.mark.parametrize(
    ("text", "settings", "told"),
    [
        ("lr=1e-3", {}, "several values"),
        ("", {"tune": ["lr", "train.weight_decay"]}, "train.weight_decay=a,b,c"),
        ("seed=1,100", {}, "100"),
        ("", {"confirm_seeds": [101]}, "confirm_seeds"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_anything_starts(tmp_path, text, settings, told):
    launcher = Launcher(tmp_path)
    with pytest.raises(UserError, match=told):
        fair(text, launcher, **settings)
    assert launcher.rounds == []


# --- successive halving

FIVE = {"factors": [0.25, 0.5, 1, 2, 4], "extensions": 0}


def trained(launcher, phase="tune"):
    """How many points of each variant were trained for so many steps."""
    found = {}
    for spec in launcher.trained:
        if spec.phase == phase:
            found.setdefault((spec.variant, spec.train.steps), set()).add(spec.lr)
    return {key: len(rates) for key, rates in found.items()}


def test_halving_gives_every_variant_equally_many_points_at_each_length(tmp_path):
    plain, launcher = Launcher(tmp_path / "plain"), Launcher(tmp_path / "halved")
    fair("variant=lora,dora", plain, **FIVE)
    assert fair("variant=lora,dora", launcher, **FIVE, halving=2) == 0
    counts = {(v, steps): n for v in ("lora", "dora") for steps, n in ((38, 5), (75, 2))}
    assert trained(launcher) == counts and trained(launcher, "confirm") == {
        ("lora", 150): 1,
        ("dora", 150): 1,
    }
    assert confirmed(launcher) == confirmed(plain)
    assert {(s.halving, s.tuned) for s in launcher.trained} == {(2, ("lr", "train.steps"))}
    work = [sum(s.train.steps for s in one.trained if s.phase == "tune") for one in (launcher, plain)]
    assert work[0] / work[1] == pytest.approx((5 * 38 + 2 * 75) / (5 * 150))


@pytest.mark.parametrize(("halving", "lengths"), [(3, {50: 5}), (5, {30: 5}), (7, {21: 5})])
def test_the_lengths_follow_the_divisor(tmp_path, halving, lengths):
    launcher = Launcher(tmp_path)
    fair("variant=lora", launcher, **FIVE, halving=halving)
    assert {steps: n for (_, steps), n in trained(launcher).items()} == lengths


def test_what_the_shortest_runs_favour_is_judged_again_by_longer_ones(tmp_path, monkeypatch):
    """Short runs want twice the rate, as they do: the choice is that of the longest runs."""
    honest = accuracy

    def biased(spec):
        shift = {38: 1.0, 75: 0.0}.get(spec.train.steps, 0.0)
        return honest(replace(spec, lr=spec.lr / 2**shift))

    monkeypatch.setitem(globals(), "accuracy", biased)
    launcher = Launcher(tmp_path)
    fair("variant=lora", launcher, **FIVE, halving=2)
    assert {s.lr for s in launcher.trained if s.train.steps == 75} == {0.004, 0.008}
    assert {s.lr for s in launcher.trained if s.phase == "confirm"} == {BEST["lora"]}


def test_grids_grow_by_the_shortest_runs_and_what_diverged_goes_no_further(tmp_path):
    launcher = Launcher(tmp_path, status=lambda s: "diverged" if s.lr > 0.012 else "completed")
    fair("variant=lora,dora", launcher, halving=3)
    assert trained(launcher) == {("lora", 50): 4, ("dora", 50): 4}
    assert {lr for v, _, lr, _ in confirmed(launcher) if v == "dora"} == {0.008}
    assert not any(s.lr > 0.012 for s in launcher.trained if s.train.steps > 50)


@pytest.mark.parametrize("limit", [0, 7, 20, 21, 26, 28, 31])
def test_killed_anywhere_halving_decides_the_same_again(tmp_path, limit):
    whole = Launcher(tmp_path / "whole")
    fair("variant=lora,dora", whole, **FIVE, halving=2)
    first, second = (Launcher(tmp_path / "cut", limit=n) for n in (limit, None))
    assert fair("variant=lora,dora", first, **FIVE, halving=2) == 130
    assert fair("variant=lora,dora", second, **FIVE, halving=2) == 0
    assert [*first.trained, *second.trained] == whole.trained


def test_a_run_that_is_lost_holds_nothing_up_and_its_point_goes_no_further(tmp_path):
    launcher = Launcher(tmp_path, status=lambda s: "failed" if s.lr == 0.004 else "completed")
    assert fair("variant=lora", launcher, **FIVE, halving=2) == 1
    assert len(launcher.rounds) == 3 and len(confirmed(launcher)) == 3
    assert 0.004 not in {s.lr for s in launcher.trained if s.train.steps > 38}


def test_epochs_are_shortened_too_and_methods_without_a_rate_left_alone(tmp_path):
    launcher = Launcher(tmp_path, status=lambda s: "diverged" if s.variant == "zero" else "completed")
    fair("variant=lora,zero train.steps=null train.epochs=4", launcher, **FIVE, halving=2)
    assert {(s.variant, s.train.epochs, s.halving, s.tuned) for s in launcher.trained} == {
        ("lora", 1.0, 2, ("lr", "train.epochs")),
        ("lora", 2.0, 2, ("lr", "train.epochs")),
        ("lora", 4.0, 2, ("lr", "train.epochs")),
        ("zero", 4.0, None, ()),
    }
