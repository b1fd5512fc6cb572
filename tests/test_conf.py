"""What Hydra composes from conf/ is what the checks read, and every file of it makes runs."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments import spec
from experiments.config.groups import Conf
from experiments.config.settings import AXES, Config, Terms, Train
from variants._core import registry

ROOT = Path(__file__).resolve().parents[1]
CONF = Conf(ROOT / "conf")
FILES = [
    (group, file)
    for group in CONF.groups()
    for file in CONF.choices(group)
    if group not in ("experiment", "train")
]
ENGINE = """
import json, runpy, sys, types
engine = types.ModuleType("experiments.sweep.engine")

def run(specs, *, workers="auto", root="runs", terms=None, at_end="report"):
    cells = [spec.as_record() for spec in specs]
    print(json.dumps({"workers": workers, "terms": vars(terms), "specs": cells}))
    for spec in specs:
        if spec.dataset == "csv":
            write(spec)
    return %d

def write(spec):
    from pathlib import Path
    from experiments.data import fingerprint
    from experiments.record import RunFolder
    run_id = spec.run_id(fingerprint(spec))
    facts = {"run_id": run_id, "study": spec.study, "spec": spec.as_record()}
    result = {"metrics": {"validation/accuracy": 0.5}, "primary": {"metric": "accuracy", "goal": "max"}}
    ended = {"status": "failed"} if spec.r == 13 else {"status": "completed", **result}
    (Path("runs") / spec.study / run_id).mkdir(parents=True)
    RunFolder(Path("runs") / spec.study / run_id).write_record({**facts, **ended})

engine.run = run
sys.modules["experiments.sweep.engine"] = engine
import experiments.sweep
experiments.sweep.engine = engine
sys.argv = [%r, *sys.argv[1:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def hydra():
    """Composition as Hydra does it: `hydra("variant=dora")` gives plain containers."""
    spec.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield lambda *words: OmegaConf.to_container(compose("config", list(words)), resolve=True)


@pytest.fixture
def launch(tmp_path):
    """The command line with an engine that only tells: (exit code, what the engine got, standard error)."""

    def run(*words, code=0):
        done = subprocess.run(
            [sys.executable, "-c", ENGINE % (code, str(ROOT / "run.py")), *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "ABLORA_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            check=False,
        )
        printed = [line for line in done.stdout.splitlines() if line.startswith("{")]
        got = json.loads(printed[0]) if printed else None
        return done.returncode, got, done.stderr

    return run


def test_the_files_say_what_the_dataclasses_say():
    assert CONF.read("train", "default") == asdict(Train())
    primary = {f.name: f.default for f in fields(Config) if f.name not in CONF.groups()}
    assert {k: v for k, v in CONF.compose({}).items() if k in primary} == primary


@pytest.mark.parametrize(("group", "file"), FILES)
def test_hydra_composes_what_the_checks_read(hydra, group, file):
    assert hydra(f"{group}={file}") == CONF.compose({**CONF.defaults(), group: file})


@pytest.mark.parametrize("name", CONF.choices("experiment"))
def test_an_experiment_composes_to_what_the_checks_read(hydra, name):
    files, values, params = CONF.experiment(name)
    composed = hydra(f"+experiment={name}", f"hydra/sweeper={CONF.sweeper(name)[0]}")
    assert composed == CONF.compose({**CONF.defaults(), **files}, values=values)
    assert params
    assert CONF.about("experiment", name).startswith("Question: ")


@pytest.mark.parametrize(("group", "file"), FILES)
def test_a_file_says_what_it_is(group, file):
    assert 10 < len(CONF.about(group, file)) < 200


@pytest.mark.parametrize("axis", AXES)
def test_every_value_of_an_axis_can_be_chosen(axis):
    assert set(registry.names(axis)) <= set(CONF.axis_values(axis))


def test_types_hold_in_hydra_too(hydra):
    with pytest.raises(Exception, match="stpes"):
        hydra("train.stpes=3")
    with pytest.raises(Exception, match="abc"):
        hydra("r=abc")


# --- from the command line to the engine


def test_cells_reach_the_engine_as_specs(launch, tmp_path):
    code, got, _ = launch("-m", "variant=dora,lora", "r=4,8,16", "study=demo", "workers=2")
    assert code == 0
    assert got["workers"] == 2
    specs = [spec.from_record(record) for record in got["specs"]]
    assert [(s.variant, s.r, s.study) for s in specs] == [
        (v, r, "demo") for v in ("dora", "lora") for r in (4, 8, 16)
    ]
    assert list(tmp_path.iterdir()) == []  # Hydra leaves no folders of its own


def test_the_terms_of_a_command_reach_the_engine_and_no_run_s_name(launch):
    _, plain, _ = launch("r=4")
    _, got, _ = launch(
        "r=4", "time_limit=90", "keep_going=true", "checkpoint_seconds=5", "checkpoint_steps=50"
    )
    assert got["terms"] == {
        "time_limit": 90.0, "keep_going": True, "checkpoint_seconds": 5.0, "checkpoint_steps": 50,
        "pack": "auto", "fsdp": 1,
    }  # fmt: skip
    assert got["specs"] == plain["specs"]
    assert plain["terms"] == vars(Terms())


def test_an_experiment_sweeps_and_the_command_goes_before_it(launch):
    _, got, _ = launch("+experiment=scaling_x_rank", "r=4,8", "study=mine")
    found = [(s["variant"], s["r"], s["seed"], s["study"]) for s in got["specs"]]
    assert found == [(v, r, s, "mine") for v in ("lora", "rslora") for r in (4, 8) for s in (0, 1, 2)]


def test_the_experiments_on_storage_make_one_study(launch):
    made = [launch(f"+experiment={name}")[1]["specs"] for name in ("qlora_storage", "qlora_double")]
    every, double = [[spec.from_record(record) for record in specs] for specs in made]
    kept = [(s.variant, s.axes["storage"]) for s in every]
    assert kept == [(v, k) for v in ("qlora", "probe") for k in ("fp32", "nf4", "fp4", "int4")]
    assert {s.study for s in every + double} == {"qlora_storage"}
    new = [(s.variant, s.axes["storage"], s.options["double_quant"]) for s in set(double) - set(every)]
    assert sorted(new) == [("probe", "nf4", False), ("qlora", "nf4", False)]


def test_a_value_may_follow_another_in_every_cell(launch):
    _, got, _ = launch("r=4,16", "alpha=${r}")
    assert [(s["r"], s["alpha"]) for s in got["specs"]] == [(4, 4.0), (16, 16.0)]


def test_parts_of_papers_are_combined(launch):
    _, got, _ = launch("variant=dora", "variant.storage=nf4", "variant.scaling=alpha_over_sqrt_r")
    assert got["specs"][0]["variant_axes"] == {
        "delta": "dora",
        "scaling": "alpha_over_sqrt_r",
        "storage": "nf4",
        "grouping": "uniform",
        "controller": "none",
    }


def test_another_folder_adds_files(launch, tmp_path):
    folder = tmp_path / "mine" / "variant"
    folder.mkdir(parents=True)
    (folder / "gentle.yaml").write_text("# Gentle.\ndefaults: [lora, _self_]\nname: gentle\nlr: 1e-4\n")
    _, got, _ = launch("--config-dir", "mine", "variant=gentle,lora")
    assert [s["variant"] for s in got["specs"]] == ["gentle", "lora"]
    assert [s["lr"] == 0.0001 for s in got["specs"]] == [True, False]


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_the_engines_exit_code_is_the_commands(launch, code):
    assert launch("r=4", code=code)[0] == code


def test_what_only_hydra_can_resolve_is_still_checked(launch):
    code, got, printed = launch("r=4", "alpha=${eval}")
    assert (code, got) == (2, None)
    code, got, printed = launch("r=4,500", "alpha=${r}", "train.head_lr=${lr}")
    assert (code, got) == (2, None)
    assert "at most 384" in printed


@pytest.fixture
def reviews(tmp_path):
    """Words for a small table of two classes."""
    rows = [f"this is number {i},{'good' if i % 3 else 'bad'}" for i in range(60)]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]))
    return ["dataset=csv", "dataset.path=reviews.csv"]


def test_the_fair_sweeper_tunes_and_confirms(launch, reviews, tmp_path):
    code, got, printed = launch("r=4,8", "hydra/sweeper=fair", "seed=0,1", *reviews)
    assert code == 0, printed
    assert len(got["specs"]) == 2 * 5 * 2  # cells, rates, tuning seeds; they all score alike
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs/default").glob("*/record.json")]
    found = sorted(
        (r["phase"], r["spec"]["r"], r["spec"]["seed"]) for r in records if r["phase"] == "confirm"
    )
    assert found == [("confirm", r, s) for r in (4, 8) for s in (0, 1)]
    assert all(record["spec"]["tuned"] == ["lr"] for record in records)
    assert {r["spec"]["lr"] for r in records if r["phase"] == "confirm"} == {0.002}


def test_a_run_is_repeated_where_that_is_asked_for(launch):
    _, got, _ = launch("seed=0,1,0,0", "repeat=true")
    assert [(s["seed"], s.get("repeat", 0)) for s in got["specs"]] == [(0, 0), (1, 0), (0, 1), (0, 2)]
    _, got, _ = launch("+experiment=noise_floor", "variant=dora")
    assert [(s["seed"], s.get("repeat", 0)) for s in got["specs"]] == [(s, 0) for s in range(8)] + [(0, 1)]


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("hydra/launcher=basic", "There is no hydra/launcher 'basic'. Known: local, slurm."),
        ("hydra/sweeper=basic", "There is no hydra/sweeper 'basic'. Known: fair, grid."),
        ("hydra.mode=RUN", "leave it out"),
    ],
)
def test_runs_go_through_launchers_and_sweepers_of_ours_alone(launch, reviews, word, shown):
    code, got, printed = launch("r=4", *reviews, word)
    assert (code, got) == (2, None)
    assert shown in " ".join(printed.split())


def test_run_is_taken_for_what_a_command_does_anyway(launch, reviews):
    assert launch("--run", "variant=dora", *reviews)[0] == 0
