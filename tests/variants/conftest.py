"""Layers and models small enough to check every number of: odd, coprime sizes, float64, away from B = 0."""

import copy

import pytest
import torch
from torch import nn

from variants import AdaptedLinear, Clock, Slot, get
from variants._core.base import DenseBase

D_IN, D_OUT, RANK = 7, 5, 3


def rehomed(parameters):
    """Parameters as strided views of one flat (K, P) buffer, as an optimiser keeps them."""
    runs = len(parameters[0])
    flat = torch.cat([p.detach().reshape(runs, -1) for p in parameters], dim=1)
    at = 0
    for p in parameters:
        size = p[0].numel()
        p.data = flat[:, at : at + size].view(p.shape)
        at += size
    return flat


def jitter(module, seed=0):
    """Move every trained parameter away from where it starts."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p += 0.3 * torch.randn(p.shape, generator=source, dtype=p.dtype)


def make_base(storage, weight, transposed=False, **options):
    if storage == "fp64":
        return DenseBase(weight, transposed=transposed)
    return get("storage", storage)(weight, transposed=transposed, options=options)


def seen_by(init, d_in, d_out):
    """Something that an init could have seen."""
    source = torch.Generator().manual_seed(4)
    shape = (40, d_in) if init.needs == "inputs" else (d_out, d_in)
    found = torch.randn(shape, generator=source, dtype=torch.float64)
    if init.needs == "inputs":
        found = torch.nn.functional.pad(found, (0, 1), value=1.0)
        return found.mT @ found
    return found


def make_layer(
    delta,
    *,
    runs=1,
    scaling="alpha_over_r",
    storage="fp64",
    alpha=4.0,
    dropout=0.0,
    transposed=False,
    bias=True,
    options=None,
    d_in=D_IN,
    d_out=D_OUT,
    r=RANK,
    seeds=None,
    moved=True,
):
    """One AdaptedLinear whose runs all hold the same kind of delta; "lora+pissa" names its init, too."""
    delta, _, init = delta.partition("+")
    options = {**(options or {}), **({"init": init} if init else {})}
    torch.manual_seed(1)
    weight = torch.randn(d_out, d_in, dtype=torch.float64)
    base = make_base(storage, weight.T.contiguous() if transposed else weight, transposed)
    b = torch.randn(d_out, dtype=torch.float64) if bias else None
    layer = AdaptedLinear(base, b, name="layer", runs=runs)
    scale = get("scaling", scaling)(alpha, r)
    slots = [Slot("layer", seed, r, scale, dropout, r, options) for seed in seeds or range(runs)]
    held = get("delta", delta)(base, slots, clock=Clock())
    layer.hold(slice(0, runs), None, held, base)
    for k, kind in list(held.waiting.items()):
        held.start(k, base, seen_by(kind, d_in, d_out))
    if moved:
        # each run its own move, so that a run alone can be rebuilt
        for k, seed in enumerate(seeds or range(runs)):
            source = torch.Generator().manual_seed(100 + seed)
            with torch.no_grad():
                for p in (p for p in held.parameters() if p.requires_grad):
                    p[k] += 0.3 * torch.randn(p[k].shape, generator=source, dtype=torch.float64).to(p.dtype)
    return layer


@pytest.fixture
def layer_of():
    return make_layer


@pytest.fixture
def jittered():
    return jitter


@pytest.fixture
def rehome():
    return rehomed


@pytest.fixture
def rows():
    """An input of `runs` x 2 examples of 3 tokens that wants a gradient."""

    def make(runs=1, d_in=D_IN, dtype=torch.float64):
        source = torch.Generator().manual_seed(2)
        x = torch.randn(2 * runs, 3, d_in, generator=source, dtype=torch.float64).to(dtype)
        return x.requires_grad_()

    return make


@pytest.fixture
def gradients():
    """The output, the gradient of x, and those of all trained parameters by name."""

    def run(layer, x, out=None):
        x.grad = None
        layer.zero_grad(set_to_none=True)
        y = layer(x) if out is None else out
        source = torch.Generator().manual_seed(3)
        y.backward(torch.randn(y.shape, generator=source, dtype=torch.float64).to(y.dtype))
        named = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
        return y.detach(), x.grad.clone(), named

    return run


def tiny(kind, **changes):
    """A small random classifier of three labels, or with `causal` a language model."""
    import transformers as t

    small = {"num_attention_heads": 2, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2}
    small |= {"vocab_size": 31, "num_labels": 3, "pad_token_id": 0, "max_position_embeddings": 24}
    grouped = {**small, "num_key_value_heads": 1}
    shared = {"vocab_size": 31, "num_labels": 3}
    kinds = {
        "bert": ("Bert", {**small, **NO_DROPOUT}),
        "roberta": ("Roberta", {**small, **NO_DROPOUT}),
        "deberta": ("DebertaV2", {
            **small, **NO_DROPOUT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"],
            "share_att_key": True, "position_buckets": 4, "pooler_hidden_size": 12, "pooler_dropout": 0,
        }),
        "distilbert": ("DistilBert", {
            **shared, "dim": 12, "n_heads": 2, "hidden_dim": 20, "n_layers": 2, "dropout": 0,
            "attention_dropout": 0,
        }),
        "gpt2": ("GPT2", {
            **shared, "n_embd": 12, "n_head": 2, "n_layer": 2, "pad_token_id": 0, "resid_pdrop": 0,
            "attn_pdrop": 0, "embd_pdrop": 0,
        }),
        "llama": ("Llama", grouped),
        "qwen2": ("Qwen2", grouped),
        "mistral": ("Mistral", {**grouped, "head_dim": 6}),
        "t5": ("T5", {
            **shared, "d_model": 12, "d_kv": 6, "d_ff": 20, "num_layers": 2, "num_heads": 2,
            "dropout_rate": 0, "decoder_start_token_id": 0, "eos_token_id": 1,
        }),
        "phi3": ("Phi3", {**grouped, "rope_parameters": {"rope_type": "default"}}),
        "gpt_neox": ("GPTNeoX", small),
    }  # fmt: skip
    causal = changes.pop("causal", False)
    torch.manual_seed(0)
    name, sizes = kinds[kind]
    config = getattr(t, f"{name}Config")(**sizes)
    config.update(changes)
    auto = t.AutoModelForCausalLM if causal else t.AutoModelForSequenceClassification
    model = auto.from_config(config).eval()
    with torch.no_grad():  # a random head and biases that are not zero, so that nothing is equal by chance
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.copy_(0.1 * torch.randn_like(p))
    return model


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture
def tiny_model():
    return tiny


@pytest.fixture
def shared_copy():
    """A structural copy of a model that shares all its tensors."""

    def make(model: nn.Module) -> nn.Module:
        return copy.deepcopy(model, {id(p): p for p in model.parameters()})

    return make


@pytest.fixture
def tokens():
    def make(rows=4, length=6, vocabulary=31):
        source = torch.Generator().manual_seed(5)
        ids = torch.randint(2, vocabulary, (rows, length), generator=source)
        ids[:, -1] = 1  # T5 classifies at its end token
        return ids

    return make
