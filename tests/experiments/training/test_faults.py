"""A run that is killed anywhere, or whose disk fills up, ends with the bits of one that was left alone.

Every attempt is a process of its own: a worker that carries out one order and is killed at its n-th
boundary. Boundaries are both sides of each rename, link, unlink, fsync and optimiser step, and the middle and
the end of each line of the history.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from experiments.bench.fake import specs_of
from experiments.config.groups import Conf
from experiments.record import read, verify

VARIANTS = Conf(Path(__file__).parents[3] / "conf").choices("variant")
OFTEN = ("adalora", "dora", "qlora", "full", "bitfit", "pissa", "prefix")  # unlike in what they keep
STEPS = 6

ATTEMPTS = """
import io, json, os, random, resource, shutil, signal, sys, time
from pathlib import Path

import torch

from experiments.training.loader import Loader
from experiments.bench.faults import arm
from experiments.spec import from_record
from experiments.sweep import worker as workers
from experiments.sweep.worker import Events, Worker
from variants import keep_decompositions

workers.check_data = lambda *_: None  # the runs bear another name than their data give
order, root = json.loads(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
loader = Loader()
keep_decompositions(lambda key: None, lambda key, found: None)  # else the first attempt alone writes them


def work(folder, reached):
    '''What the worker said, which needs no disk.'''
    arm(reached)
    said = io.StringIO()
    worker = Worker(Events(said))
    worker._loader = loader
    worker.carry_out({**order, "root": str(folder)})
    return said.getvalue()


def attempt(folder, kill_at=None):
    '''The number of boundaries that a worker reached, None if it was killed at the one asked for.'''
    folder.mkdir(parents=True, exist_ok=True)
    told = folder.with_suffix(".count")
    pid = os.fork()  # the model is loaded once
    if pid == 0:
        signal.alarm(100)
        count = 0
        def reached(name):
            nonlocal count
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        work(folder, reached)
        told.write_text(str(count))
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return int(told.read_text()) if status == 0 else None


loader(from_record(order["pack"][0]["run"]))
"""

KILLS = (
    ATTEMPTS
    + """
draw, wanted = random.Random(sys.argv[3]), int(sys.argv[4])
boundaries = attempt(root / "plain")
numbers = range(1, boundaries + 1)
for number in draw.sample(numbers, wanted) if wanted else numbers:
    folder = root / f"killed-at-{number}"
    assert attempt(folder, number) is None, "the kill came too late"
    if wanted:  # and once more on the way
        attempt(folder, draw.randint(1, boundaries))
    assert attempt(folder) is not None
"""
)

FULL = (
    ATTEMPTS
    + """
how = sys.argv[3]
attempt(root / "plain")
folder = root / "disk" / "run"  # where a small file system may be mounted
filler = root / "disk" / "filler"


def fill():
    if how == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))
        return
    with open(filler, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


steps = 0


def reached(name):
    global steps
    steps += name == "step"
    if name == "step" and steps == 2 * 3 + 1:  # both sides of three steps: one checkpoint is there
        fill()


pid = os.fork()
folder.mkdir(parents=True, exist_ok=True)
if pid == 0:
    signal.alarm(100)
    said = work(folder, reached)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    (root / "said.jsonl").write_text(said)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0, "the worker must survive it"
kept = list(folder.rglob("step-*.pt"))
assert len(kept) == 1, kept
filler.unlink(missing_ok=True)
attempt(folder)
shutil.copytree(folder, root / "freed")
"""
)


@pytest.fixture
def order_of(toy_csv, tiny_bert):
    """The order of a small run of a variant, with a checkpoint at every second step."""

    def order(variant):
        [spec] = specs_of(
            f"variant={variant}", "r=2", "model=hf", f"model.path={tiny_bert}", "dataset=csv", "study=toy",
            f"dataset.path={toy_csv}", "dataset.text=text", "dataset.label=label",
            "dataset.max_length=16", f"train.steps={STEPS}", "train.batch_size=8", "train.log_every=2",
            "train.evaluations=2", "lr=0.02",
        )  # fmt: skip
        run = {"run": spec.as_record(), "run_id": "run"}
        return {"pack": [run], "members": ["run"], "checkpoint": {"seconds": 1e9, "steps": 2}}

    return order


@pytest.fixture
def carry_out(preloaded):
    """A script with an order, a folder for its runs, and what else it takes."""

    def run(script, order, root, *arguments):
        code, shown = preloaded(script, json.dumps(order), root, *arguments)
        assert code == 0, (code, shown[-3000:])

    return run


def lasting(root):
    """The run's folder below `root` and its lasting files, by name."""
    folder = root / "toy" / "run"
    names = ["history.jsonl", "predictions.parquet"]
    names += [str(p.relative_to(folder)) for p in sorted(folder.glob("adapter/*"))]
    return folder, {name: (folder / name).read_bytes() for name in names}


def same(root, plain):
    (folder, files), (whole, expected) = lasting(root), lasting(plain)
    assert verify(folder) == []
    assert files.keys() == expected.keys()
    for name in files:
        assert files[name] == expected[name], (root.name, name)
    assert read(folder)["metrics"] == read(whole)["metrics"]
    steps = [row["step"] for row in map(json.loads, files["history.jsonl"].splitlines()) if "loss" in row]
    assert steps == sorted(set(steps)) and (not steps or steps[-1] == STEPS)
    assert not list(folder.rglob("*.tmp"))
    assert not (folder / "checkpoint").exists()


@pytest.mark.parametrize(
    ("variant", "kills"),
    [("adalora", 5), pytest.param("lora", 0, marks=pytest.mark.slow)]
    + [
        pytest.param(variant, 12 if variant in OFTEN else 4, marks=pytest.mark.slow)
        for variant in VARIANTS
        if variant != "lora"
    ],
)
def test_killed_anywhere_a_run_ends_with_the_same_bits(carry_out, order_of, tmp_path, variant, kills):
    """0 kills means one at every boundary; else so many at random ones, each run being killed twice."""
    root = tmp_path / "runs"
    carry_out(KILLS, order_of(variant), root, variant, kills)
    killed = list(root.glob("killed-at-*[0-9]"))
    assert len(killed) >= (kills or 60)
    for folder in killed:
        same(folder, root / "plain")


@pytest.mark.parametrize("how", ["limit", "tmpfs"])
def test_a_full_disk_fails_the_run_loudly_and_freed_it_goes_on(carry_out, order_of, tmp_path, how):
    root = tmp_path / "runs"
    disk = root / "disk"
    disk.mkdir(parents=True)
    if how == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small file system takes rights that this user has not")
    try:
        carry_out(FULL, order_of("lora"), root, how)
    finally:
        if how == "tmpfs":
            subprocess.run(["umount", "-l", str(disk)], check=True)
    said = [json.loads(line) for line in (root / "said.jsonl").read_text().splitlines()]
    assert said[-1]["event"] == "finished" and said[-1]["status"] == "failed"
    assert said[-1]["error"]["kind"] == "disk"
    reason = {"tmpfs": "the disk is full", "limit": "larger than this system allows"}[how]
    assert reason in said[-1]["error"]["message"]
    same(root / "freed", root / "plain")
    assert "starts at step 2 of 6" in (root / "freed/toy/run/log.txt").read_text()


def test_a_checkpoint_whose_history_was_damaged_is_not_gone_on_from(carry_out, order_of, tmp_path):
    """Rows that the checkpoint counts on are gone: the run begins anew instead of leaving a hole."""
    script = (
        ATTEMPTS
        + """
attempt(root / "plain")
assert attempt(root / "hurt", int(sys.argv[3])) is None
path = root / "hurt" / "toy" / "run" / "history.jsonl"
assert list((path.parent / "checkpoint").glob("*.pt"))
path.write_bytes(path.read_bytes()[:40])
attempt(root / "hurt")
"""
    )
    root = tmp_path / "runs"
    counted = ATTEMPTS + 'print(attempt(root / "counted"))'
    carry_out(counted, order_of("lora"), root)
    last = int((root / "counted.count").read_text())
    carry_out(script, order_of("lora"), root, 2 * last // 3)
    same(root / "hurt", root / "plain")
