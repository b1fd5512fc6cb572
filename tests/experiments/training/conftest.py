"""What tests of training share: a run on a small table."""

from dataclasses import replace

import pytest

from experiments.record import RunFolder
from experiments.spec import RunSpec, Train
from experiments.tracking import make
from experiments.training.run_state import Run

AXES = {
    "delta": "lora",
    "scaling": "alpha_over_r",
    "storage": "fp32",
    "grouping": "uniform",
    "controller": "none",
}


@pytest.fixture
def run_of(tmp_path, toy_csv, tiny_bert):
    """A run on a small table, in a folder of its own: `run_of("name", train={...})`."""

    def made(name, *, train=None, dropout=0.1, adalora=False, phase="run", **changes):
        axes, options = dict(AXES), {"dropout": dropout}
        if adalora:
            axes |= {"delta": "adalora", "controller": "adalora_budget"}
            options |= {"init_r_ratio": 1.5, "orth_weight": 0.5, "t_init": 1, "t_final": 1, "interval": 1}
        spec = RunSpec(
            study="toy", variant="lora", method="adapters", r=2, alpha=4.0, targets="qv", axes=axes,
            options=options, model="hf", model_options={"path": str(tiny_bert)}, dataset="csv",
            dataset_options={
                "path": str(toy_csv), "text": "text", "label": "label", "max_length": 16,
            },
            lr=0.02, seed=0, train=Train(**{"steps": 12, "batch_size": 8, "head_lr": 0.02, **(train or {})}),
            phase=phase,
        )  # fmt: skip
        spec = replace(spec, **changes)
        return Run(spec, name, RunFolder(tmp_path / name), make({"name": "none"}))

    return made
