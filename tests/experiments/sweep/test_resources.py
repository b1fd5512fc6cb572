"""How many workers a machine takes, and which GPUs they share out."""

import pytest

from experiments.errors import UserError
from experiments.sweep import resources as module
from experiments.sweep.resources import gpus, resources


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """Six cores, room for four workers, no GPU, no Slurm: `machine("nvidia0")` adds devices."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    monkeypatch.setattr(module, "_room", lambda: 4)
    monkeypatch.setattr(module, "DEVICES", tmp_path)
    return lambda *names: [(tmp_path / name).touch() for name in names]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("0,3", ["0", "3"]),
        (" 2 , 1", ["2", "1"]),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", ["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"]),
        ("MIG-1b4a,MIG-GPU-7c/3/0", ["MIG-1b4a", "MIG-GPU-7c/3/0"]),
        ("", []),
        ("-1", []),
        ("1,-1,2", ["1"]),
        ("NoDevFiles", []),
    ],
)
def test_gpus_are_those_that_cuda_is_shown_under_the_names_it_knows(machine, monkeypatch, visible, expected):
    machine("nvidia0", "nvidia1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus() == expected


def test_where_nothing_is_hidden_the_drivers_devices_count(machine):
    assert gpus() == []
    machine("nvidia10", "nvidia2", "nvidia0", "nvidiactl", "nvidia-uvm")
    assert gpus() == ["0", "2", "10"]


@pytest.mark.parametrize(
    ("workers", "cells", "size", "threads"),
    [
        ("auto", 100, 4, 1),
        ("auto", 3, 3, 2),
        ("auto", 0, 1, 6),
        (2, 100, 2, 3),
        ("5", 100, 5, 1),
        (9, 100, 9, 1),
    ],
)
def test_processes_and_threads_fill_the_cores(workers, cells, size, threads):
    assert resources(workers, cells) == (size, threads, [])


def test_a_process_per_gpu(machine):
    machine("nvidia0", "nvidia1")
    assert resources("auto", 9) == (2, 3, ["0", "1"])


def test_the_cores_are_those_that_slurm_gave(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    assert resources("auto", 9) == (2, 1, [])
    assert resources(1, 9) == (1, 2, [])


def test_runs_in_several_processes_share_out_the_machine_by_as_many(machine, monkeypatch):
    assert resources("auto", 9, each=2) == (2, 1, [])  # room for four processes, six cores
    assert resources("auto", 9, each=6) == (1, 1, [])
    with pytest.raises(UserError, match=r"fsdp=7 .* machine has 6 cores and no GPU: give fsdp=6 or less"):
        resources("auto", 9, each=7)
    machine("nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidia4")
    assert resources("auto", 9, each=2) == (2, 1, ["0,1", "2,3"])
    assert resources("auto", 1, each=2) == (1, 3, ["0,1", "2,3"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(UserError, match=r"fsdp=2 .* machine has 1 GPU: give fsdp=1 or less"):
        resources("auto", 9, each=2)
