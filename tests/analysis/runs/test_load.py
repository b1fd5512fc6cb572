"""Reading a study: what is used is right, what is not used is named."""

import json
from pathlib import Path

import pytest

from analysis import report
from analysis.runs import cells, load
from experiments import record as records
from experiments.errors import UserError


def tamper(folder: Path, change) -> None:
    """Rewrite a record with `change` applied to its content."""
    path = folder / "record.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_missing_folder_is_an_error_that_names_its_neighbours(writer):
    w = writer("demo")
    w.grid(ranks=(4,))
    with pytest.raises(UserError, match="demo"):
        load.read(w.root.parent / "dmeo")


def test_a_folder_of_studies_is_not_a_study(writer):
    w = writer("demo")
    w.grid(ranks=(4,))
    with pytest.raises(UserError, match="The studies in it: demo"):
        load.read(w.root.parent)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.update(schema=2), "schema 2"),
        (lambda c: c["metrics"].update({"test/accuracy": float("nan")}), "NaN"),
        (lambda c: c["metrics"].update({"test/accuracy": "0.7"}), "no finite number"),
        (lambda c: c["metrics"].update({"test/accuracy": True}), "no finite number"),
        (lambda c: c["spec"].pop("seed"), "lacks seed"),
        (lambda c: c["spec"].update(seed="zero"), "no whole number"),
        (lambda c: c.update(status="fine"), "status 'fine'"),
        (lambda c: c.pop("primary"), "primary metric"),
        (lambda c: c.update(metrics={}), "neither test/accuracy"),
        (lambda c: c.update(metrics=[1]), "metrics is no mapping"),
        (lambda c: c.update(env=["x"]), "env is no mapping"),
        (lambda c: c.update(data=["x"]), "data is no mapping"),
        (lambda c: c.update(files=["x"]), "files is no mapping"),
        (lambda c: c["env"].update(versions=["torch"]), "versions in env"),
        (lambda c: c.update(error=["x"]), "error is neither"),
        (lambda c: c["spec"].update(train="fast"), "train is 'fast'"),
        (lambda c: c["spec"].update(variant_axes="lora"), "variant_axes is 'lora'"),
        (lambda c: c["spec"].update(alpha="16"), "alpha is '16'"),
    ],
)
def test_a_record_that_cannot_be_trusted_is_named_and_left_out(writer, change, reason):
    w = writer()
    record = w.grid(ranks=(4,))[0]
    tamper(w.root / record["run_id"], change)
    study = load.read(w.root)
    assert record["run_id"] not in study.runs.index
    assert len(study.runs) == 1
    assert [p.run for p in study.problems] == [record["run_id"]]
    assert reason in study.problems[0].what


def test_what_prunes_is_scaled_by_the_rank_that_it_starts_at(writer):
    w = writer()
    for variant in ("lora", "adalora"):
        w.run(
            w.spec(variant, 8, 0, **({"variant_options__init_r_ratio": 1.5} if variant == "adalora" else {}))
        )
    runs = load.read(w.root).runs.set_index("variant")
    assert runs["scale"].to_dict() == {"lora": 2.0, "adalora": pytest.approx(16 / 12)}


def test_a_torn_record_is_named_and_left_out(writer):
    w = writer()
    record = w.grid(ranks=(4,))[0]
    path = w.root / record["run_id"] / "record.json"
    path.write_text(path.read_text()[:200])
    study = load.read(w.root)
    assert "torn" in study.problems[0].what
    assert len(study.runs) == 1


def test_a_run_without_a_record_is_unfinished(writer):
    w = writer()
    record = w.grid(ranks=(4,))[0]
    (w.root / record["run_id"] / "record.json").unlink()
    assert load.read(w.root).unfinished == [record["run_id"]]


def plan_of(w, name, *run_ids):
    """What a command leaves beside the runs: the list of what it asked for."""
    (w.root / ".planned").mkdir(parents=True, exist_ok=True)
    content = {"cells": {run_id: {"variant": "lora", "seed": 0} for run_id in run_ids}}
    (w.root / ".planned" / f"{name}.json").write_text(json.dumps(content))


def test_what_was_asked_for_and_never_begun_is_missing_and_the_report_names_it(writer):
    w = writer()
    done = [record["run_id"] for record in w.grid(ranks=(4,))]
    (w.root / "begun").mkdir()
    (w.root / "begun" / "spec.json").write_text("{}")
    plan_of(w, "first", *done, "begun", "lora-r8-qv-toy-s0-12345678")
    plan_of(w, "second", "lora-r16-qv-toy-s0-12345678")
    (w.root / ".planned" / "torn.json").write_text('{"cells": {"lora-')
    study = load.read(w.root)
    assert study.missing == ["lora-r16-qv-toy-s0-12345678", "lora-r8-qv-toy-s0-12345678"]
    assert study.unfinished == ["begun"]
    report.build(w.root, images_too=False)
    for page in ("report.html", "report.md"):
        text = (w.root / "report" / page).read_text()
        assert "Missing: requested, not started" in text
        assert all(run_id in text for run_id in study.missing)


def test_a_study_of_which_nothing_was_begun_has_a_report_all_the_same(writer):
    w = writer()
    plan_of(w, "first", *(f"run-{i:03}" for i in range(70)))
    report.build(w.root, images_too=False)
    text = (w.root / "report" / "report.md").read_text()
    assert "70 missing" in text and "run-049" in text and "run-050" not in text and "and 20 more" in text


def copy_of(w, record, name: str) -> Path:
    """A second folder with the record of another run."""
    folder = w.root / name
    folder.mkdir()
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def test_a_run_copied_with_the_same_results_counts_once(writer):
    w = writer()
    record = w.grid(ranks=(4,))[0]
    copy_of(w, record, "copy")
    study = load.read(w.root)
    assert len(study.runs) == 2
    assert any("counted once" in p.what for p in study.problems)


def test_a_run_copied_with_other_results_counts_never(writer):
    w = writer()
    record = w.grid(ranks=(4,))[0]
    tamper(copy_of(w, record, "copy"), lambda c: c["metrics"].update({"test/accuracy": 0.99}))
    copy_of(w, record, "third")
    study = load.read(w.root)
    assert record["run_id"] not in study.runs.index
    assert any("none of them is used" in p.what for p in study.problems)


def test_a_cell_is_its_spec_without_the_seed(writer):
    w = writer()
    w.grid(variants=("lora",), ranks=(4, 8), seeds=(0, 1, 2))
    table = cells.cells(load.read(w.root))
    assert list(table["n"]) == [3, 3]
    assert list(table["seeds"]) == [(0, 1, 2), (0, 1, 2)]


def test_runs_of_another_stack_are_another_row(writer):
    w = writer()
    records = w.grid(variants=("lora",), ranks=(4,), seeds=(0, 1, 2))
    tamper(w.root / records[0]["run_id"], lambda c: c["env"].update(code_sha256="beef" * 16))
    table = cells.cells(load.read(w.root))
    assert sorted(table["n"]) == [1, 2]


def test_a_readme_commit_splits_nothing(writer):
    w = writer()
    records = w.grid(variants=("lora",), ranks=(4,), seeds=(0, 1, 2))
    tamper(w.root / records[0]["run_id"], lambda c: c["env"].update(git_sha="f" * 40))
    assert list(cells.cells(load.read(w.root))["n"]) == [3]


def test_the_rate_that_stands_for_a_cell_is_chosen_on_validation(writer):
    w = writer()
    metrics = {0.001: (0.60, 0.99), 0.01: (0.70, 0.50)}
    for lr, (validation, test) in metrics.items():
        told = {"validation/accuracy": validation, "test/accuracy": test}
        w.run(w.spec("lora", 8, 0, lr=lr), metrics=told, predictions=False)
    table = cells.cells(load.read(w.root)).set_index("lr")
    assert table["final"].to_dict() == {0.001: False, 0.01: True}
    assert set(table["rates"]) == {2}


def test_tuning_runs_enter_no_result(writer):
    w = writer()
    w.run(w.spec("lora", 8, 100), phase="tune")
    w.run(w.spec("lora", 8, 0), phase="confirm")
    table = cells.cells(load.read(w.root))
    assert table.set_index("tuning")["seeds"].to_dict() == {True: (100,), False: (0,)}
    assert table.set_index("tuning")["final"].to_dict() == {True: False, False: True}


def test_failed_and_missing_seeds_are_counted(writer):
    w = writer()
    w.grid(variants=("lora",), ranks=(8,), seeds=(0, 1, 2))
    w.run(w.spec("dora", 8, 0), status="diverged")
    w.run(w.spec("dora", 8, 1), status="oom")
    table = cells.cells(load.read(w.root)).set_index("variant")
    assert (table.at["dora", "n"], table.at["dora", "diverged"], table.at["dora", "failed"]) == (0, 1, 1)
    assert cells.missing_seeds(table.reset_index())[0][1] == (2,)


def test_what_sets_runs_of_a_variant_apart_is_in_their_name(writer):
    w = writer()
    w.run(w.spec("dora", 8, 0))
    w.run(w.spec("dora", 8, 0, variant_axes__storage="nf4"))
    assert sorted(cells.cells(load.read(w.root))["series"]) == ["dora, storage=fp32", "dora, storage=nf4"]


def test_an_alpha_that_follows_the_rank_needs_no_name(writer):
    w = writer()
    for r in (4, 8):
        w.run(w.spec("dora", r, 0, alpha=2.0 * r))
    assert set(cells.cells(load.read(w.root))["series"]) == {"dora"}


def with_checksum(folder):
    """As today's code writes it: with its own checksum."""
    tamper(folder, lambda c: c.update(sha256=records.checksum(c)))


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["metrics"].update({"test/loss": 0.123}),
        lambda c: c["spec"].update(lr=3e-3),
        lambda c: c["env"].update(host="elsewhere"),
        lambda c: c.update(deviations=["went on with fewer rows"]),
        lambda c: c["cost"].update(trainable_parameters=5),
    ],
    ids=["metric", "spec", "env", "deviations", "cost"],
)
def test_a_record_that_was_edited_is_named_and_left_out(writer, change):
    w = writer()
    names = [record["run_id"] for record in w.grid(ranks=(4,))]
    for name in names:
        with_checksum(w.root / name)
    assert len(load.read(w.root).runs) == len(names)
    tamper(w.root / names[0], change)
    study = load.read(w.root)
    assert names[0] not in study.records and len(study.records) == len(names) - 1
    [problem] = [problem for problem in study.problems if problem.run == names[0]]
    assert "its own checksum" in problem.what and "not used" in problem.what


@pytest.mark.parametrize("depth", [100, 5_000, 100_000])
def test_a_record_that_is_nested_too_deeply_is_named_and_left_out(writer, depth):
    w = writer()
    name = w.grid(ranks=(4,))[0]["run_id"]
    path = w.root / name / "record.json"
    deep = '"notes": ' + "[" * depth + "]" * depth + ","
    path.write_text(path.read_text().replace("{", "{" + deep, 1))
    study = load.read(w.root)
    assert name not in study.records and name in [problem.run for problem in study.problems]


def test_control_characters_in_names_end_no_report(writer):
    w = writer()
    for record in w.grid(ranks=(4,)):

        def odd(c):
            c["spec"]["dataset"] = "news\x1b[31m"
            c["spec"]["variant"] += "\x1b]0;x\x07"
            c["notes"] = ["a\x1b[2Jb"]

        tamper(w.root / record["run_id"], odd)
    (w.root / "odd\x1b[31mname").mkdir()
    (w.root / "odd\x1b[31mname" / "record.json").write_text("{")
    page = report.build(w.root, images_too=True)
    folder = page.parent
    texts = [
        path.read_text(errors="replace")
        for path in folder.rglob("*")
        if path.suffix in (".html", ".md", ".svg", ".tex", ".csv")
    ]
    assert texts and not any("\x1b" in text or "\x07" in text for text in texts)
    assert any("news\ufffd" in text for text in texts)
