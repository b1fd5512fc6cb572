"""A dry run: the runs that there would be, what they would cost, and where the estimate is from."""

import csv
import io
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from experiments import data
from experiments.console import commands
from experiments.sweep.preview.arithmetic import LIBRARIES, LOGITS, disk, evaluation_flops, memory, step_flops
from experiments.sweep.preview.facts import Facts, Task
from experiments.sweep.preview.forecast import ARITHMETIC, MEASURED, SCALED, forecast
from experiments.sweep.preview.table import MOST, duration, page, size
from experiments.training import evaluate

FAST = {"step_ms": 20.0, "evaluate_seconds": 3.0, "load_seconds": 0.5, "harness_seconds": 0.25}


@pytest.fixture
def words(tmp_path, tiny_bert, monkeypatch):
    """Words for a tiny BERT on a table of two classes, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    rows = [f"this is number {i},{'good' if i % 3 else 'bad'}" for i in range(90)]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]))
    return f"model=hf model.path={tiny_bert} dataset=csv dataset.path={tmp_path / 'reviews.csv'} study=demo"


@pytest.fixture
def look(words, cells_of, tmp_path):
    """The forecast of a command, on two workers."""
    return lambda command: forecast(
        cells_of(f"{command} {words}"), Facts(), root=tmp_path / "runs", workers=2, speed=1e9
    )


@pytest.fixture
def ended(words, cells_of, tmp_path):
    """Leaves the records of a command's runs, as if it had been carried out."""

    def write(command, *, host=None, status="completed", hashes=None, **cost):
        for spec in cells_of(f"{command} {words}"):
            run_id = spec.run_id(data.fingerprint(spec))
            folder = tmp_path / "runs" / spec.study / run_id
            folder.mkdir(parents=True)
            rows = {f"{split}_sha256": value for split, value in data.read(spec).sha256.items()}
            record = {
                "schema": 1, "run_id": run_id, "study": spec.study, "status": status,
                "spec": spec.as_record(), "cost": {**FAST, **cost}, "env": {"host": host or platform.node()},
                "data": hashes or rows,
            }  # fmt: skip
            (folder / "spec.json").write_text(json.dumps(spec.as_record()))
            (folder / "record.json").write_text(json.dumps(record))

    return write


@pytest.fixture
def plan(words, capsys):
    """`python -m experiments.sweep plan WORDS`: its exit code, standard output and standard error."""

    def run(*given):
        try:
            code = commands.run("experiments.sweep", "About.", ["plan", *given, *words.split()])
        except SystemExit as end:
            code = end.code
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


# --- which runs


def test_seeds_are_runs_of_one_cell(look):
    found = look("variant=lora,dora r=3,5 seed=0,1,2")
    assert [(row.spec.variant, row.spec.r, row.seeds) for row in found.rows] == [
        ("lora", 3, 3), ("lora", 5, 3), ("dora", 3, 3), ("dora", 5, 3),
    ]  # fmt: skip
    assert len(found.plan.todo) == 12


def test_what_is_done_is_not_counted_again(look, ended):
    ended("variant=lora seed=0")
    ended("variant=lora seed=1", status="failed")
    (row,) = look("variant=lora seed=0,1,2").rows
    assert (row.seeds, row.done, row.missing) == (3, 1, 2)


def test_cells_that_are_one_run_are_one(look):
    found = look("variant=full r=3,5,7")
    assert (len(found.rows), found.plan.duplicates) == (1, 2)


# --- what they cost


def test_operations_by_hand(look, cells_of, words):
    """Tiny BERT: 24 wide, 40 inside, 2 layers, a pooler; LoRA of r = 3 on q and v of both layers."""
    (spec,) = cells_of(f"variant=lora r=3 train.batch_size=8 train.evaluations=2 {words}")
    facts = Facts()
    skeleton, count = facts.skeleton(spec), facts.count(spec)
    linear = 2 * (4 * 24 * 24 + 2 * 24 * 40) + 24 * 24
    adapter = 4 * 3 * (24 + 24)
    tokens, length = 8 * 16, 16
    step = tokens * (4 * linear + 6 * adapter + 12 * length * 24 * 2)
    assert step_flops(spec, skeleton, count, length, causal=False) == pytest.approx(step)
    task = Task("classification", 2, 60, 10, 20)
    passes = (2 * 10 + 20) * length
    tests = passes * (2 * (linear + adapter) + 4 * length * 24 * 2)
    assert evaluation_flops(spec, skeleton, count, task, length, causal=False) == pytest.approx(tests)


def test_training_the_base_costs_its_gradients(cells_of, words):
    facts = Facts()
    specs = cells_of(f"variant=full,bitfit,probe,zero {words}")
    full, bitfit, probe, zero = (
        step_flops(s, facts.skeleton(s), facts.count(s), 16, causal=False) for s in specs
    )
    linear = facts.skeleton(specs[0]).linear
    assert full == pytest.approx(bitfit + 2 * 16 * 16 * linear)  # 16 texts of 16 tokens, dW of each map
    assert 2 * probe < bitfit and zero == 0


def test_memory_holds_base_state_and_activations(cells_of, words):
    facts, task = Facts(), Task("classification", 2, 60, 10, 20)
    one, more, tuned = (
        memory(s, facts.skeleton(s), facts.count(s), task, 16, accelerator=True)
        for s in cells_of(f"variant=lora r=3,7 {words}")
        + cells_of(f"variant=lora r=3 train.batch_size=32 {words}")
    )
    assert more - one == 16 * 4 * 4 * 48  # four ranks more on four maps of 48 parameters per rank
    assert tuned - one == 16 * 16 * 4 * 2 * (17 * 24 + 2 * 16)  # 16 texts more of 16 tokens
    (spec,) = cells_of(f"variant=lora r=3 {words}")
    on_cpu = memory(spec, facts.skeleton(spec), facts.count(spec), task, 16, accelerator=False)
    assert on_cpu == one + LIBRARIES


def test_an_evaluation_of_many_rows_takes_more_than_a_step_of_few(cells_of, words):
    facts = Facts()
    [spec] = cells_of(f"variant=lora r=3 train.batch_size=2 train.eval_batch_size=50 {words}")
    facts_of = (spec, facts.skeleton(spec), facts.count(spec))
    few, many, text = (
        memory(*facts_of, task, 16, accelerator=True)
        for task in (
            Task("classification", 2, 60, 20, 9),
            Task("classification", 2, 60, 9, 70),  # 50 at a time
            Task("causal", 0, 60, 9, 70),
        )
    )
    assert many - few == 30 * 16 * 4 * (8 * 24 + 2 * 2 * 16)
    assert text - many == pytest.approx(3 * 4 * evaluate.LOGITS, rel=1e-3)  # and no head of classes
    assert LOGITS == evaluate.LOGITS


def test_the_disk_holds_what_was_trained(cells_of, words):
    facts, task = Facts(), Task("classification", 2, 60, 10, 20)
    small, large = (disk(s, facts.count(s), task, 100) for s in cells_of(f"variant=lora r=3,5 {words}"))
    assert large - small == 4 * 2 * 4 * 48


BUDGET = {"budget": 400, "budget_realised": 400, "reactivations": 10, "rank/layer.1.attention.query": 3}


@pytest.mark.parametrize(("variant", "more"), [("lora", {}), ("adalora", BUDGET)])
def test_the_history_has_a_row_for_each_step(cells_of, words, variant, more):
    task, row = Task("classification", 2, 60, 10, 20), {"loss": 2 / 3, "grad_norm": 7 / 9, "lr": 1e-3 / 3}
    [spec] = cells_of(f"variant={variant} r=3 train.log_every=20 {words}")
    short, long = (disk(spec, None, task, steps) for steps in (100, 1100))
    assert long - short == pytest.approx(1000 * len(json.dumps({"step": 600} | row | more)), rel=0.1)


def test_earlier_runs_of_the_shape_tell_the_time(look, ended):
    ended("variant=lora r=3 seed=0", peak_bytes=700_000_000)
    ended("variant=lora r=3 seed=1", step_ms=30.0, peak_bytes=900_000_000)
    ended("variant=lora r=3 seed=2", step_ms=90.0, peak_bytes=800_000_000)
    found = look("variant=lora r=3 seed=7,8 lr=0.01 train.steps=400")
    (row,) = found.rows
    assert row.source == MEASURED
    assert row.seconds == pytest.approx(400 * 0.030 + 3.0 + 0.75)
    assert row.memory == 800_000_000
    assert found.seconds == pytest.approx(2 * row.seconds / 2)  # two runs, two workers
    assert found.sources == (
        "1 of 1 cells: medians of 3 earlier runs of the same shape on this machine (demo)",
    )


def test_other_methods_on_the_same_work_tell_the_speed(look, ended, cells_of, words):
    ended("variant=lora r=3 seed=0")
    (row,) = look("variant=dora r=5 train.steps=200").rows
    assert row.source == SCALED
    facts = Facts()
    lora, dora = cells_of(f"variant=lora r=3 {words}") + cells_of(f"variant=dora r=5 {words}")
    length, task = facts.length(dora), facts.task(dora)
    flops = lambda s: step_flops(s, facts.skeleton(s), facts.count(s), length, causal=False)  # noqa: E731
    tests = evaluation_flops(dora, facts.skeleton(dora), facts.count(dora), task, length, causal=False)
    expected = (200 * flops(dora) + tests) / (flops(lora) / 0.020)
    assert row.seconds == pytest.approx(expected + 1.0)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("variant=lora r=3 seed=0", {"host": "elsewhere"}),
        ("variant=lora r=3 seed=0", {"status": "failed"}),
        ("variant=lora r=3 seed=0 train.batch_size=4", {}),
        ("variant=lora r=3 seed=0 dataset.max_length=32", {}),
        ("variant=lora r=3 seed=0", {"hashes": {"train_sha256": "of other rows"}}),
    ],
)
def test_runs_that_were_something_else_tell_nothing(look, ended, command, options):
    ended(command, **options)
    (row,) = look("variant=lora r=3 seed=5").rows
    assert row.source == ARITHMETIC


def test_runs_on_other_rows_of_the_same_file_tell_nothing(look, ended, tmp_path):
    ended("variant=lora r=3 seed=0")
    with (tmp_path / "reviews.csv").open("a") as table:
        table.write("\nthis is one more,good")
    for kept in (data._read, data._fingerprint):  # as another process would read it
        kept.cache_clear()
    (row,) = look("variant=lora r=3 seed=5").rows
    assert row.source == ARITHMETIC


def test_a_model_that_is_not_here_is_said(words, cells_of, tmp_path):
    command = words.replace("model.path=", "model.revision=none model.name=nobody/nothing#").split()
    specs = cells_of(" ".join(word.partition("#")[0] for word in command))
    found = forecast(specs, Facts(), root=tmp_path / "runs", workers=1)
    assert (found.rows[0].seconds, found.rows[0].count, found.seconds) == (None, None, None)
    assert "not on this machine" in found.sources[0]
    assert "?" in shown(found)


# --- on the terminal


def shown(found, findings=(), width=120):
    stream = io.StringIO()
    Console(file=stream, width=width).print(page(found, findings, ["one effect"]))
    return stream.getvalue()


def test_every_cell_has_a_line(look):
    text = shown(look("variant=lora,dora r=3,5 seed=0,1"))
    assert "12 in" not in text and "8 in 4 cells: 0 done already, 8 to do (study=demo)" in text
    assert text.count("dora") == 2 and "one effect" in text and "Nothing was started." in text


def test_many_cells_are_summed_up(look):
    found = look(f"variant=lora,dora r=3 lr={','.join(f'{i / 1000}' for i in range(1, MOST))}")
    text = shown(found)
    assert f"{len(found.rows)} cells, summed up by variant" in text
    assert text.count("dora") == 1 and "0.001 to 0.059" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (0.4, "0 s"), (89, "89 s"), (600, "10 min"), (9000, "2.5 h"), (259_200, "3.0 d")],
)
def test_durations_are_in_words(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(None, "?"), (999, "999 B"), (1500, "1.5 kB"), (7e8, "700 MB"), (4e12, "4 TB")]
)
def test_sizes_are_in_words(count, text):
    assert size(count) == text


# --- the command


def test_the_command_tells_all_of_it(plan, tmp_path):
    code, out, _ = plan(
        "-m", "variant=lora,dora", "r=3,5", "seed=0,1,2", "--sd", "0.02", "--json", "--csv", "x.csv"
    )
    assert code == 0
    told = json.loads(out)
    assert (told["runs"], told["done"]) == (12, 0)
    assert told["smallest_effect"]["detectable"]["3"] == pytest.approx(3.26 * 0.02, rel=0.01)
    assert [(cell["variant"], cell["r"]) for cell in told["cells"]][:2] == [("lora", 3), ("lora", 5)]
    assert told["cells"][0]["adapter_parameters"] == 4 * 3 * 48
    assert {finding["level"] for finding in told["findings"]} <= {"problem", "warning", "note"}
    with open("x.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["trainable_parameters"]) for row in rows] == [
        cell["trainable_parameters"] for cell in told["cells"]
    ]
    assert not (tmp_path / "runs").exists()


def test_matched_ranks_are_shown(plan):
    _, out, _ = plan("variant=lora,dora", "r=8", "match=parameters", "seed=0,1,2")
    assert "7 (for 8)" in out and "No other rank of dora comes nearer" in out


def test_the_rounds_of_a_fair_sweep_are_counted(plan):
    code, out, _ = plan("variant=lora,dora", "r=8", "match=parameters", "hydra/sweeper=fair", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["runs"] == 2 * (5 * 2 + 5)  # five rates on two seeds, then five seeds, for two cells
    assert {(c["phase"], c["variant"], c["r"]) for c in told["cells"]} == {
        (phase, *cell) for phase in ("tune", "confirm") for cell in (("lora", 8), ("dora", 7))
    }
    assert "5 points for each of 2 cells" in told["notes"][0]
    only = ("hydra/sweeper=fair", "hydra.sweeper.confirm_seeds=[]", "hydra.sweeper.extensions=0")
    code, out, _ = plan("variant=lora,dora", "r=8", *only)
    assert code == 0 and "20 in 10 cells" in out and "Smallest effect" not in out and " edge" not in out


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (["variant=lroa"], "Did you mean 'lora'?"),
        (["r=many"], "r takes a whole number"),
        (["variant=dora", "match=parameters"], "variant=dora alone"),
        (["--sd", "-1"], "--sd takes a number above 0"),
        (["--pilot", "nowhere"], "no folder nowhere"),
        (["--speed", "0"], "--speed takes a number above 0"),
        (["--nope"], "unrecognized arguments: --nope"),
    ],
)
def test_mistakes_are_told_and_end_with_2(plan, given, text):
    code, _, err = plan(*given)
    assert code == 2
    assert text in " ".join(err.split())


@pytest.mark.slow
def test_after_the_runs_the_records_say_what_was_foretold(shell):
    words = ["variant=lora,dora,adalora,probe", "r=5", "match=parameters"]

    def plan():
        given = shell.words | dict(word.split("=", 1) for word in words)
        command = [sys.executable, "-m", "experiments.sweep", "plan", "--json"]
        done = subprocess.run(
            [*command, *(f"{key}={value}" for key, value in given.items())],
            cwd=shell.folder, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return json.loads(done.stdout)

    before = plan()
    code, output = shell.run(*words)
    assert code == 0, output
    assert "match: dora has r=4 for r=5" in output
    records = {record["spec"]["variant"]: record for record in shell.records().values()}
    assert records["dora"]["spec"]["matched"] == 5 and records["dora"]["spec"]["r"] == 4
    for cell in before["cells"]:
        cost = records[cell["variant"]]["cost"]
        for key in ("trainable_parameters", "adapter_parameters", "total_parameters"):
            assert cell[key] == cost[key], (cell["variant"], key)
    after = plan()
    assert (after["done"], after["estimate"]["seconds"]) == (4, 0.0)
    assert {cell["estimate"] for cell in after["cells"]} == {"measured"}


def test_a_key_to_tune_that_is_not_there_is_one_sentence(plan):
    code, _, told = plan("variant=lora", "hydra/sweeper=fair", "hydra.sweeper.tune=[train.weightdecay]")
    assert code == 2 and "no key 'train.weightdecay'. Did you mean 'train.weight_decay'?" in told
    assert "Traceback" not in told


def test_a_csv_goes_into_a_folder_that_is_there(plan, tmp_path):
    code, _, told = plan("variant=lora", "--csv", str(tmp_path / "gone" / "x.csv"))
    assert code == 2 and "there is no folder" in told and not (tmp_path / "gone").exists()
