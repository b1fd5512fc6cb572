"""Prompts, prefixes, (IA)^3 and bottleneck adapters against PEFT, which shares no line with them, or a paper.

Compared are outputs, every gradient and 30 steps of AdamW in float64, on an encoder and two decoders.
"""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from variants import RunConfig, attach, merge

peft = pytest.importorskip("peft")

LENGTH = 3
OPTIONS = {
    "prompt": {"length": LENGTH},
    "prefix": {"length": LENGTH, "inner": 7},
    "ptuning_v2": {"length": LENGTH},
    "ia3": {},
    "houlsby": {"bottleneck": 5},
    "pfeiffer": {"bottleneck": 5},
}
PACKED = [name for name in OPTIONS if name != "houlsby"]
EXACT = {"rtol": 1e-6, "atol": 1e-9}


def run(name, seed=0):
    return RunConfig(seed, method=name, targets=None, r=None, alpha=None, options=OPTIONS[name])


@pytest.fixture
def attached(tiny_model):
    """A method on a tiny model in float64, away from its start."""

    def make(name, kind="bert", *, causal=False, seeds=(0,), moved=True):
        made = attach(tiny_model(kind, causal=causal), [run(name, seed) for seed in seeds])
        made.model.double()
        source = torch.Generator().manual_seed(9)
        with torch.no_grad():
            for t in made.trained if moved else ():
                draw = torch.randn(t.parameter.shape[0 if t.plain else 1 :], generator=source)
                t.parameter += 0.1 * draw.double()  # the same in every run of a pack
        return made

    return make


@pytest.fixture
def padded(tokens):
    """Ids and a mask whose first row is shorter."""
    ids = tokens()
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    return {"input_ids": ids.where(mask.bool(), 0), "attention_mask": mask}


def theirs(name, model, *, causal, prefixes=None):
    """PEFT's model of a method, over a base that shares the numbers of ours."""
    task = "CAUSAL_LM" if causal else "SEQ_CLS"
    prompts = {"task_type": task, "num_virtual_tokens": LENGTH}
    kind = model.config.model_type
    if name == "ia3":
        targets, ends = {
            "bert": (["key", "value", "output.dense"], ["output.dense"]),
            "llama": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
        }[kind]
        if kind == "bert":  # the attention ends in a map of the same name
            targets = r".*(key|value|layer\.\d+\.output\.dense)"
            ends = r".*layer\.\d+\.output\.dense"
        config = peft.IA3Config(task_type=task, target_modules=targets, feedforward_modules=ends)
    elif name == "prompt":
        config = peft.PromptTuningConfig(**prompts)
    else:
        heads = getattr(model.config, "num_key_value_heads", 2)
        config = peft.PrefixTuningConfig(
            **prompts,
            prefix_projection=name == "prefix",
            encoder_hidden_size=7,
            num_attention_heads=heads,
            token_dim=12 if name == "prefix" and heads == 2 else 6 * heads,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(model, config).double()


def pairs(name, ours, other):
    """Our trained tensors of the method (no head) with PEFT's, each as PEFT shapes it."""
    mine = {t.name: t.parameter for t in ours.trained if not t.role.startswith("head")}
    if name == "ia3":
        own = {n.removesuffix(".ia3_l.default"): p for n, p in other.named_parameters() if "ia3_l" in n}
        own = {n.removeprefix("base_model.model."): p for n, p in own.items()}
        return [(p, own[n.rpartition(".ia3_")[0]]) for n, p in mine.items()]
    encoder = other.prompt_encoder["default"]
    if name == "prefix":
        first, last = encoder.transform[0], encoder.transform[2]
        order = {
            "embedding": encoder.embedding.weight,
            "mlp.0.weight": first.weight,
            "mlp.0.bias": first.bias,
        }
        order |= {"mlp.2.weight": last.weight, "mlp.2.bias": last.bias}
        return [(p, next(q for end, q in order.items() if n.endswith(end))) for n, p in mine.items()]
    return [(p, encoder.embedding.weight) for p in mine.values()]


CASES = [
    ("prompt", "gpt2", True), ("prompt", "llama", True), ("prefix", "bert", False),
    ("prefix", "gpt2", True), ("ptuning_v2", "bert", False), ("ptuning_v2", "llama", True),
    ("ptuning_v2", "llama", False), ("ptuning_v2", "gpt2", True), ("ia3", "bert", False),
    ("ia3", "llama", True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "causal"), CASES)
def test_outputs_gradients_and_thirty_steps_are_those_of_peft(
    name, kind, causal, attached, tiny_model, padded
):
    ours = attached(name, kind, causal=causal)
    base = tiny_model(kind, causal=causal).double()
    for n, head in ours.heads.items():
        base.get_submodule(n).weight.data.copy_(head.weight[0])
        if head.bias is not None:
            base.get_submodule(n).bias.data.copy_(head.bias[0])
    other = theirs(name, base, causal=causal).eval()
    both = pairs(name, ours, other)
    trainable = [p for n, p in other.named_parameters() if p.requires_grad and "modules_to_save" not in n]
    assert len(both) == len(trainable)
    for p, q in both:
        q.data.copy_(p.detach()[0].view_as(q))
    optimisers = [torch.optim.AdamW([pair[i] for pair in both], lr=1e-2) for i in (0, 1)]
    real = padded["attention_mask"].bool()

    def logits(model):
        out = model(**padded).logits
        return out[:, -real.shape[1] :][real] if causal else out

    for step in range(30):
        for model, optimiser in zip((ours.model.eval(), other), optimisers, strict=True):
            optimiser.zero_grad()
            out = logits(model)
            (out * torch.linspace(-1, 1, out.numel()).view_as(out)).square().sum().backward()
        if step == 0:
            assert_close(logits(ours.model), logits(other), **EXACT)
        for p, q in both:
            assert p.grad.any()
            assert_close(p.grad[0].view_as(q), q.grad, **EXACT)
        for optimiser in optimisers:
            optimiser.step()
    for p, q in both:
        assert_close(p.detach()[0].view_as(q), q.detach(), **EXACT)


def transcribed(name, model, ours):
    """The paper's block, written out as the base's own forward pass: BERT."""
    adapters = {n: m for n, m in ours.model.named_modules() if type(m).__name__ == "Bottleneck"}
    sigma = F.gelu if name == "houlsby" else F.relu

    def adapter(at, h):
        a = adapters[f"{at}.bottleneck"]
        return sigma(h @ a.down.weight[0].T + a.down.bias[0]) @ a.up.weight[0].T + a.up.bias[0]

    def norm(at, s):
        own = ours.model.get_submodule(at)
        return F.layer_norm(s, s.shape[-1:], own.weight, own.bias, own.eps)

    class Attention(nn.Module):
        def __init__(self, at, plain):
            super().__init__()
            self.at, self.plain = at, plain

        def forward(self, h, x):
            h = F.linear(h, self.plain.dense.weight, self.plain.dense.bias)
            return norm(f"{self.at}.LayerNorm", h + adapter(f"{self.at}.dense", h) + x)

    class FeedForward(Attention):
        def forward(self, h, x):
            h = F.linear(h, self.plain.dense.weight, self.plain.dense.bias)
            if name == "houlsby":
                return norm(f"{self.at}.LayerNorm", h + adapter(f"{self.at}.dense", h) + x)
            z = norm(f"{self.at}.LayerNorm", h + x)
            return norm(f"{self.at}.LayerNorm", h + adapter(f"{self.at}.LayerNorm", z) + x)

    for i, layer in enumerate(model.bert.encoder.layer):
        at = f"bert.encoder.layer.{i}"
        if name == "houlsby":
            layer.attention.output = Attention(f"{at}.attention.output", layer.attention.output)
        layer.output = FeedForward(f"{at}.output", layer.output)
    if name == "houlsby":
        model.bert.embeddings.LayerNorm = ours.model.bert.embeddings.LayerNorm
    head = ours.heads["classifier"]
    model.classifier.weight.data, model.classifier.bias.data = head.weight[0].detach(), head.bias[0].detach()
    return model


@pytest.mark.parametrize("name", ["houlsby", "pfeiffer"])
def test_bottleneck_adapters_are_those_of_the_paper(name, attached, tiny_model, padded):
    ours = attached(name)
    literal = transcribed(name, tiny_model("bert").double(), ours)
    own = [t.parameter for t in ours.trained if not t.role.startswith("head")]
    results = []
    for model in (ours.model.eval(), literal.eval()):
        logits = model(**padded).logits
        results.append((logits, *torch.autograd.grad(logits.pow(3).sum(), own)))
    assert_close(*results, rtol=1e-10, atol=1e-12)


def test_a_prefix_starts_as_wide_as_it_is_told(tiny_model):
    starts = []
    for options in ({}, {"prefix_std": 0.02}):
        made = RunConfig(3, method="ptuning_v2", r=None, alpha=None, options={"length": LENGTH, **options})
        starts.append(attach(tiny_model("bert"), [made]).model.bert.prefix.embedding)
    assert_close(starts[1], 0.02 * starts[0])
    assert 0.8 < starts[0].std() < 1.2


def test_a_prefix_is_attended_to_as_the_paper_writes_it(attached, tiny_model):
    """Head by head, on BERT's first layer, whose input is known."""
    ours = attached("ptuning_v2")
    model, ids = ours.model.eval(), torch.tensor([[5, 9, 2, 7]])
    seen = {}
    layer = model.bert.encoder.layer[0].attention.self
    layer.register_forward_hook(lambda m, inputs, out: seen.update(h=inputs[0], out=out[0]))
    model(input_ids=ids)
    embeddings = model.bert.embeddings(input_ids=ids, position_ids=torch.arange(4)[None] + LENGTH)
    assert_close(seen["h"], embeddings)
    h, P = embeddings[0], model.bert.prefix()[0].view(LENGTH, 4, 12)
    q, k, v = (m(h) for m in (layer.query, layer.key, layer.value))
    k, v = torch.cat([P[:, 0], k]), torch.cat([P[:, 1], v])
    heads = [torch.softmax(q[:, s] @ k[:, s].T / 6**0.5, -1) @ v[:, s] for s in (slice(0, 6), slice(6, 12))]
    assert_close(seen["out"][0], torch.cat(heads, 1), rtol=1e-10, atol=1e-12)


def test_an_encoders_prompt_is_more_text_in_front_and_its_own_first_token_is_pooled(attached, tiny_model):
    ours = attached("prompt")
    model, ids = ours.model.eval(), torch.tensor([[5, 9, 2, 7]])
    plain = tiny_model("bert").double().bert.eval()
    P = model.bert.prompt.prompt
    inputs = torch.cat([P, plain.embeddings.word_embeddings(ids)], 1)
    states = plain(inputs_embeds=inputs).last_hidden_state[:, LENGTH:]
    head = ours.heads["classifier"]
    expected = plain.pooler(states) @ head.weight[0].T + head.bias[0]
    assert_close(model(input_ids=ids).logits, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("name", ["ia3", "houlsby", "pfeiffer"])
def test_it_starts_at_the_base_or_close_to_it(name, kind, attached, padded):
    fresh = attached(name, kind, moved=False)
    started = fresh.model.eval()(**padded).logits
    for module in list(fresh.model.modules()):  # what was put in, taken out again
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    exact = name == "ia3"
    assert_close(started, fresh.model(**padded).logits, rtol=0, atol=1e-12 if exact else 5e-3)


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2", "llama"])
@pytest.mark.parametrize("name", PACKED)
def test_a_run_of_a_pack_is_the_run_alone(name, kind, attached, tokens):
    pack = attached(name, kind, seeds=(3, 4, 5))
    ids = tokens(6)
    logits = pack.model.eval()(input_ids=ids).logits
    for k in range(3):
        alone = attached(name, kind, seeds=(3 + k,))
        assert pack.tensors(k).keys() == alone.tensors(0).keys()
        for tensor, own in pack.tensors(k).items():
            assert torch.equal(own, alone.tensors(0)[tensor])
        own = alone.model.eval()(input_ids=ids[2 * k : 2 * k + 2]).logits
        assert_close(logits[2 * k : 2 * k + 2], own, rtol=1e-9, atol=1e-11)


def test_houlsby_does_not_pack(tiny_model):
    with pytest.raises(ValueError, match="houlsby trains the model's own parameters"):
        attach(tiny_model("bert"), [run("houlsby", seed) for seed in range(2)])


@pytest.mark.parametrize("name", OPTIONS)
def test_what_was_kept_is_put_back(name, attached, padded):
    first, again = attached(name), attached(name, moved=False)
    before = again.model.eval()(**padded).logits
    kept = {n: t.clone() for n, t in first.kept(0).items()}
    again.put_back(0, kept)
    assert not torch.allclose(before, again.model(**padded).logits)
    assert torch.equal(first.model.eval()(**padded).logits, again.model(**padded).logits)


@pytest.mark.parametrize("storage", ["fp32", "nf4"])
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_merged_vectors_say_the_same(kind, storage, tiny_model, padded):
    runs = [RunConfig(s, method="ia3", targets=None, r=None, axes={"storage": storage}) for s in (0, 1)]
    model = tiny_model(kind)
    weights = {name: p.clone() for name, p in model.base_model.named_parameters()}
    pack = attach(model, runs)
    with torch.no_grad():
        for t in pack.trained:
            t.parameter += 0.1 * torch.randn_like(t.parameter)
    logits = pack.model.eval()(**{name: t.repeat(2, 1) for name, t in padded.items()}).logits
    for k in range(2):
        merged = merge(pack, k, dtype=torch.float32)
        assert not any(type(m).__name__ == "Rescale" for m in merged.modules())
        assert_close(merged.eval()(**padded).logits, logits[4 * k : 4 * k + 4], rtol=1e-4, atol=1e-5)
    if storage == "fp32":  # the base is as it was
        left = {n: p for n, p in pack.model.base_model.named_parameters() if n in weights}
        assert left and all(torch.equal(p, weights[n]) for n, p in left.items())


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "ia3"])
def test_what_no_weight_can_hold_is_not_merged(name, attached):
    with pytest.raises(ValueError, match=r"cannot be merged: they are a part of every forward pass.*ia3"):
        merge(attached(name), 0)


@pytest.mark.parametrize("name", ["prefix", "prompt"])
def test_a_text_too_long_for_the_positions_says_how_long_it_may_be(name, attached, tokens):
    with pytest.raises(
        ValueError, match=r"22 tokens and a .* of 3 do not fit into the 24 positions.*at most 21"
    ):
        attached(name).model(input_ids=tokens(length=22))


def test_models_without_a_place_are_refused_with_one_that_has(tiny_model):
    for name, kind, said in (
        ("prefix", "deberta", "computes attention in its own code.*variant=ia3"),
        ("prompt", "t5", "an encoder and a decoder.*variant=houlsby"),
        ("ia3", "gpt_neox", "holds q, k and v.*variant=pfeiffer"),
    ):
        with pytest.raises(ValueError, match=said):
            attach(tiny_model(kind), [run(name)])


@pytest.mark.parametrize("name", ["prefix", "prompt"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_with_a_cache_the_next_token_is_the_one_without(name, kind, attached, tokens):
    """Greedy writing by transformers, against a whole pass for every token."""
    model, ids = attached(name, kind, causal=True).model.eval(), tokens(3)
    virtual = torch.tensor(getattr(model, "virtual_tokens", ()), dtype=torch.long).expand(3, -1)
    laid = torch.cat([virtual, ids], 1)
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    out = model.generate(input_ids=laid, attention_mask=torch.ones_like(laid), **settings)[:, laid.shape[1] :]
    text = ids
    for _ in range(4):
        text = torch.cat([text, model(input_ids=text).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(out, text[:, ids.shape[1] :])


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("name", OPTIONS)
def test_under_autocast_it_says_about_the_same(name, kind, attached, padded):
    made = attached(name, kind)
    made.model.float().eval()
    wide = made.model(**padded).logits
    with torch.autocast("cpu", torch.bfloat16):
        narrow = made.model(**padded).logits
    assert (wide - narrow.float()).norm() <= 0.05 * wide.norm()
    narrow.float().square().sum().backward()
    assert all(t.parameter.grad.isfinite().all() for t in made.trained)
