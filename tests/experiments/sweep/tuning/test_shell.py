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
