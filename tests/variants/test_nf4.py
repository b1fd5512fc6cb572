"""The 4-bit storage: the paper's codes and sizes, and the products of a dense layer with the same weight."""

import copy
import sys

import pytest
import torch
from torch.testing import assert_close

from variants import RunConfig, attach, get, merge, names
from variants._core.base import DenseBase
from variants.qlora import FORMATS, FourBitBase

CODES = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023,
    1.0,
]  # fmt: skip


def literal(weight, block=64):
    """Nearest code times the block's largest magnitude, without double quantisation."""
    codes, flat, out = torch.tensor(CODES), weight.flatten(), []
    for start in range(0, len(flat), block):
        values = flat[start : start + block]
        top = values.abs().max()
        nearest = (values[:, None] / top - codes).abs().argmin(1)
        out.append(codes[nearest] * top)
    return torch.cat(out).view(weight.shape)


@pytest.mark.parametrize("shape", [(64, 64), (96, 80), (13, 7), (48, 24), (5, 130)])
def test_without_double_quantisation_it_is_the_nearest_code_of_each_block(shape):
    torch.manual_seed(0)
    weight = torch.randn(shape)
    assert_close(FourBitBase(weight, double_quant=False).weight(), literal(weight), rtol=1e-6, atol=1e-7)


def test_there_are_sixteen_codes_one_of_them_zero():
    weight = torch.linspace(-1, 1, 64 * 64).view(64, 64)
    weight[:, 0] = 1.0  # every block's largest magnitude is one
    found = FourBitBase(weight, double_quant=False).weight().unique()
    assert_close(found, torch.tensor(CODES))


def test_four_bit_floats_are_the_other_code_book_and_fit_normal_weights_worse():
    table = [0, 1 / 192, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1]
    weight = torch.linspace(-1, 1, 64 * 64).view(64, 64)
    weight[:, 0] = 1.0
    found = FourBitBase(weight, codes="fp4", double_quant=False).weight().unique()
    codes = torch.tensor(sorted({*table, *(-value for value in table)}))
    assert_close(found, codes, rtol=1e-3, atol=1e-6)
    torch.manual_seed(0)
    normal = torch.randn(256, 256)
    errors = [(FourBitBase(normal, codes=c).weight() - normal).norm() for c in ("nf4", "fp4")]
    assert errors[0] < 0.9 * errors[1]


def test_quantising_what_was_dequantised_changes_nothing():
    torch.manual_seed(0)
    once = FourBitBase(torch.randn(64, 128), double_quant=False).weight()
    assert torch.equal(FourBitBase(once, double_quant=False).weight(), once)


@pytest.mark.parametrize(("double_quant", "bits"), [(True, 4.127), (False, 4.5)])
def test_bits_per_weight_counted_from_what_is_stored(double_quant, bits):
    base = FourBitBase(torch.randn(1024, 1024), double_quant=double_quant)
    assert abs(8 * base.nbytes / 1024**2 - bits) < 5e-4


def test_double_quantisation_costs_little():
    torch.manual_seed(0)
    weight = torch.randn(256, 256)
    errors = [(FourBitBase(weight, double_quant=d).weight() - weight).norm() for d in (False, True)]
    assert errors[0] < errors[1] < 1.01 * errors[0]


@pytest.mark.parametrize("storage", FORMATS)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("delta", names("delta"))
def test_a_layer_equals_a_dense_one_with_the_dequantised_weight(
    delta, transposed, storage, layer_of, rows, gradients
):
    quantised = layer_of(delta, storage=storage, transposed=transposed)
    dense = layer_of(delta, storage="fp64", moved=False)
    dense.base = DenseBase(quantised.base.weight(torch.float64))
    dense.held[0] = dense.held[0]._replace(base=dense.base)
    for p in quantised.parameters():
        p.data = p.data.double()
    dense.deltas[0].load_state_dict(quantised.deltas[0].state_dict())
    for name, buffer in quantised.deltas[0].named_buffers():  # what is read off W at the start
        setattr(dense.deltas[0], name, buffer.double() if buffer.is_floating_point() else buffer)
    dense.held[0].delta.expire(dense.held)
    x = rows()
    near = {"rtol": 1e-5, "atol": 1e-6} if delta == "dora" else {"rtol": 1e-12, "atol": 1e-12}
    quantised.held[0].delta.scale = dense.held[0].delta.scale
    assert_close(gradients(quantised, x), gradients(dense, x), **near)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dequantising_straight_to_sixteen_bits_is_rounding(dtype):
    base = FourBitBase(torch.randn(96, 80))
    assert_close(base.weight(dtype).float(), base.weight().to(dtype).float(), rtol=2**-8, atol=0)


def test_the_compute_type_is_that_of_the_products(rows):
    torch.manual_seed(0)
    weight, x = torch.randn(96, 80), torch.randn(4, 80)
    exact = x @ FourBitBase(weight).weight().T
    half = FourBitBase(weight, compute="bf16").product(x)
    assert half.dtype == torch.float32 and not torch.equal(half, exact)
    assert (half - exact).norm() < 0.01 * exact.norm()
    assert torch.equal(half, half.bfloat16().float())


def test_training_evaluating_and_training_again_works(tiny_model, tokens):
    """The layer of bitsandbytes repacks itself at its first evaluation on some CPUs: no gradient after it."""
    attached = attach(tiny_model("bert"), [RunConfig(0, r=2, targets="all", axes={"storage": "nf4"})])
    optimiser = torch.optim.AdamW([t.parameter for t in attached.trained], lr=1e-2)
    losses = []
    for _ in range(3):
        attached.model.train()
        attached.before_step()
        loss = attached.model(input_ids=tokens(), labels=torch.tensor([0, 1, 2, 0])).loss
        loss.backward()
        assert all(t.parameter.grad is not None for t in attached.trained)
        optimiser.step()
        attached.after_step(0)
        optimiser.zero_grad()
        attached.model.eval()
        with torch.no_grad():
            losses.append(float(attached.model(input_ids=tokens(), labels=torch.tensor([0, 1, 2, 0])).loss))
    assert losses[2] < losses[0]


def test_every_linear_map_of_the_backbone_is_stored_and_nothing_else(tiny_model):
    model = tiny_model("bert")
    dense = sum(p.nbytes for p in model.parameters())
    attached = attach(model, [RunConfig(0, r=2, axes={"storage": "nf4"})])
    stored = {name for name, m in attached.model.named_modules() if isinstance(m, FourBitBase)}
    assert len(stored) == 2 * 6 + 1 and "bert.pooler.dense.base" in stored
    assert attached.heads["classifier"].weight.dtype == torch.float32
    assert attached.model.bert.embeddings.word_embeddings.weight.dtype == torch.float32
    assert attached.base_bytes() < dense


def test_bf16_storage_halves_the_bytes_of_the_maps(tiny_model, tokens):
    wide = attach(tiny_model("bert"), [RunConfig(0, r=2, targets="all")])
    half = attach(tiny_model("bert"), [RunConfig(0, r=2, targets="all", axes={"storage": "bf16"})])
    maps = sum(layer.base.nbytes for layer in wide.layers.values())
    assert sum(layer.base.nbytes for layer in half.layers.values()) == maps / 2
    assert half.model(input_ids=tokens()).logits.dtype == torch.float32


def test_merging_a_quantised_base_gives_sixteen_bits(tiny_model, tokens):
    attached = attach(tiny_model("bert"), [RunConfig(0, r=2, targets="all", axes={"storage": "nf4"})])
    with torch.no_grad():
        for t in attached.trained:
            t.parameter.add_(0.1)
    ours = attached.model(input_ids=tokens()).logits
    merged = merge(attached, 0)
    assert {p.dtype for p in merged.parameters()} == {torch.bfloat16}
    assert (merged(input_ids=tokens()).logits.float() - ours).norm() < 0.05 * ours.norm()
    exact = merge(attached, 0, dtype=torch.float32)(input_ids=tokens()).logits
    assert (exact - ours).norm() < 1e-5 * ours.norm()


def test_a_copy_is_a_copy():
    base = FourBitBase(torch.randn(64, 64))
    assert torch.equal(copy.deepcopy(base).weight(), base.weight())
    assert torch.equal(base.to(torch.float64).weight(), base.weight())


def test_without_bitsandbytes_it_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=r"storage in 4 bits needs bitsandbytes.*choose storage=bf16"):
        get("storage", "nf4")(torch.randn(4, 4), transposed=False, options={})


def test_an_unknown_compute_type_is_refused():
    with pytest.raises(ValueError, match="compute 'fp8' is unknown: auto, bf16 or fp32"):
        get("storage", "nf4")(torch.randn(4, 4), transposed=False, options={"compute": "fp8"})
