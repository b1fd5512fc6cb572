"""Fair tuning as a user starts it, with real training."""

import pytest


@pytest.mark.slow
def test_tuning_and_confirmation_are_one_command_that_finds_its_place_again(shell):
    words = ["variant=lora,full", "r=2", "hydra/sweeper=fair", "hydra.sweeper.factors=[0.5,1,2]"]
    words += ["hydra.sweeper.extensions=0", "hydra.sweeper.tune_seeds=[100]", "seed=0,1", "workers=2"]
    del shell.words["lr"]
    code, output = shell.run(*words)
    assert code == 0, output
    records = shell.records().values()
    tuned = [record for record in records if record["phase"] == "tune"]
    confirmed = [record for record in records if record["phase"] == "confirm"]
    counts = [sum(r["spec"]["variant"] == name for r in tuned) for name in ("lora", "full")]
    assert counts == [3, 3]
    assert sorted((r["spec"]["variant"], r["spec"]["seed"]) for r in confirmed) == [
        ("full", 0), ("full", 1), ("lora", 0), ("lora", 1),
    ]  # fmt: skip
    assert not any(key.startswith("test/") for record in tuned for key in record["metrics"])
    assert all("test/accuracy" in record["metrics"] for record in confirmed)
    report = (shell.folder / "runs/toy/report/report.md").read_text()
    assert "tuned equally, with 3 points for each cell, on validation with seeds 100" in report
    before = {path: path.stat().st_mtime_ns for path in shell.folder.glob("runs/toy/*/record.json")}
    code, output = shell.run(*words)
    assert code == 0 and "4 runs, 4 already finished" in output
    assert {path: path.stat().st_mtime_ns for path in shell.folder.glob("runs/toy/*/record.json")} == before


@pytest.mark.slow
def test_halving_is_told_in_records_dry_run_and_report(shell):
    words = ["variant=lora,dora", "r=2", "hydra/sweeper=fair", "hydra.sweeper.halving=2"]
    words += ["hydra.sweeper.extensions=0", "hydra.sweeper.tune_seeds=[100]", "seed=0,1,2", "workers=2"]
    del shell.words["lr"]
    code, output = shell.run(*words)
    assert code == 0, output
    assert "with 1/4 of the steps" in output and "with 1/2 of the steps: the best of 5" in output
    records = list(shell.records().values())
    tuned = [r["spec"] for r in records if r["phase"] == "tune"]
    for variant in ("lora", "dora"):
        own = [spec["train"]["steps"] for spec in tuned if spec["variant"] == variant]
        assert sorted(own) == [2] * 5 + [4] * 2
    assert {r["spec"]["train"]["steps"] for r in records if r["phase"] == "confirm"} == {8}
    assert {spec["halving"] for spec in tuned} == {2}
    report = " ".join((shell.folder / "runs/toy/report/report.md").read_text().split())
    assert "chosen after runs of 2 and 4 instead of 8 steps or epochs (halving)" in report
