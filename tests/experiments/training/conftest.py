"""What tests of training share: a run on a small table."""

from functools import partial

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertForSequenceClassification

from experiments.data import Encoded
from experiments.record import RunFolder
from experiments.tracking import make
from experiments.training import execute as execution
from experiments.training.run_state import Run


class Quiet:
    """A display that shows nothing."""

    def run_started(self, run_id, steps, done=0): ...
    def step(self, run_id, step, loss): ...
    def note(self, text): ...


@pytest.fixture
def execute():
    """Trains runs to their records and shows nothing: `execute([run, ...])`."""
    return partial(execution.execute, display=Quiet())


@pytest.fixture
def run_of(tmp_path, toy_spec):
    """A run on a small table, in a folder of its own: `run_of("name", train={...})`; see `toy_spec`."""

    def made(name, *, dropout=0.1, adalora=False, axes=(), **changes):
        options = {"dropout": dropout}
        if adalora:
            axes = {"delta": "adalora", "controller": "adalora_budget"}
            options |= {"init_r_ratio": 1.5, "orth_weight": 0.5, "t_init": 1, "t_final": 1, "interval": 1}
        spec = toy_spec(axes=axes, **{"options": options, **changes})
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


DECODER = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 48,
}  # fmt: skip
DECODERS = {
    "llama": {},
    "gemma2": {"final_logit_softcapping": 0.9, "head_dim": 6, "query_pre_attn_scalar": 6},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.25, "bos_token_id": 1, "eos_token_id": 2},
    "gpt_neox": {},
    "opt": {"word_embed_proj_dim": 12, "ffn_dim": 40, "do_layer_norm_before": True},
    "bloom": {"n_head": 4, "n_layer": 2},
    "mistral": {"sliding_window": 9},
}


@pytest.fixture
def decoder():
    """A random decoder whose logits are far from even: `decoder("gemma2")`."""

    def made(kind):
        torch.manual_seed(1)
        config = AutoConfig.for_model(kind, **{**DECODER, **DECODERS[kind]})
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.4)
        return model.requires_grad_(False)

    return made
