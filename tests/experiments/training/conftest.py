"""What tests of training share: a run on a small table."""

from dataclasses import replace

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from experiments.data import Encoded
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


@pytest.fixture(scope="module")
def frozen():
    """A BERT of two layers for five classes and texts of up to 12 tokens, with no dropout of its own."""
    config = BertConfig(
        vocab_size=61, hidden_size=20, num_hidden_layers=2, num_attention_heads=2, intermediate_size=44,
        max_position_embeddings=15, num_labels=5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BertForSequenceClassification(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def split():
    """34 rows of 3 to 12 tokens for it, the class given away by the first token."""
    rows, length, draw = 34, 12, torch.Generator().manual_seed(7)
    ids = torch.randint(3, 61, (rows, length), generator=draw)
    lengths = torch.randint(3, length + 1, (rows,), generator=draw)
    mask = (torch.arange(length)[None] < lengths[:, None]).long()
    return Encoded(tuple(map(str, range(rows))), ids * mask, mask, ids[:, 0] % 5, 0)
