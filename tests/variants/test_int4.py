"""int4: the uniform 4-bit grid. Its codes, bytes and errors against what numpy and theory say."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.testing import assert_close

from variants import RunConfig, attach, get, merge, names, reads
from variants.qlora import BOOKS, FORMATS, FourBitBase

functional = pytest.importorskip("bitsandbytes").functional

INT4 = np.arange(-7, 8) / 7
SHAPES = [(64, 64), (96, 80), (13, 7), (5, 130), (1, 3), (1, 1)]


def stored(weight, codes="int4", **options):
    return FourBitBase(weight, codes=codes, **{"double_quant": False} | options)


def draw(*shape):
    torch.manual_seed(0)
    return torch.randn(shape)


def by_hand(weight, block=64):
    """Sevenths of each block's largest magnitude, rounded, one block after another; and the whole numbers."""
    flat = weight.numpy().astype(np.float64).ravel()
    numbers, back = [], []
    for start in range(0, len(flat), block):
        values = flat[start : start + block]
        top = np.abs(values).max()
        numbers.append(np.rint(7 * values / top).astype(int))
        back.append(numbers[-1] / 7 * top)
    return np.concatenate(back).reshape(weight.shape), np.concatenate(numbers)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_weight_is_the_nearest_seventh_of_its_blocks_largest(shape):
    weight = draw(*shape)
    expected, _ = by_hand(weight)
    assert_close(stored(weight).weight().numpy().astype(np.float64), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_two_numbers_share_a_byte_the_first_in_the_high_nibble(shape):
    weight = draw(*shape)
    numbers = by_hand(weight)[1] + 7
    pairs = np.append(numbers, [7] * (len(numbers) % 2)).reshape(-1, 2)
    assert (stored(weight).packed.numpy().ravel() == pairs @ [16, 1]).all()


def test_nibbles_lie_as_bitsandbytes_lays_them():
    """Both formats turn signs into nibbles: 0 for the least, the greatest last, in the same places."""
    signs = torch.where(draw(64, 64) > 0, 1.0, -1.0)
    ours, theirs = stored(signs).packed, stored(signs, "nf4").packed
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    high, low = theirs >> 4, theirs & 15
    assert torch.equal(ours, (high.clamp(max=14) << 4) | low.clamp(max=14))


def test_the_grid_is_even_symmetric_and_has_a_zero():
    weight = torch.linspace(-1, 1, 64 * 64).view(64, 64)
    weight[:, 0] = 1.0  # every block's largest magnitude is one
    assert_close(stored(weight).weight().unique(), torch.tensor(INT4, dtype=torch.float32))
    assert_close(stored(-weight).weight(), -stored(weight).weight())
    assert stored(torch.zeros(3, 64)).weight().count_nonzero() == 0


def test_storing_what_was_stored_changes_nothing():
    once = stored(draw(64, 128)).weight()
    assert torch.equal(stored(once).weight(), once)


# --- what it loses


@cache
def expected_error(name, block=64):
    """E[(w - q)^2] for w ~ N(0, 1), by quadrature.

    The largest magnitude m of a block has density n (2 Phi(m) - 1)^(n-1) 2 phi(m) and is kept exactly. The
    other n - 1 are normals cut off at m, each rounded to the nearest code times m.
    """
    own = INT4 if name == "int4" else functional.get_4bit_type(name, device="cpu").double().numpy()
    codes, tops, normal = np.unique(own), np.linspace(0.8, 6, 150), stats.norm

    def error(m):
        w = np.linspace(-m, m, 2001)
        q = m * codes[np.abs(w[:, None] / m - codes).argmin(axis=1)]
        return integrate.trapezoid((w - q) ** 2 * normal.pdf(w), w) / (2 * normal.cdf(m) - 1)

    density = block * (2 * normal.cdf(tops) - 1) ** (block - 1) * 2 * normal.pdf(tops)
    return (block - 1) / block * integrate.trapezoid(density * [error(m) for m in tops], tops)


@pytest.mark.parametrize("name", FORMATS)
def test_on_normal_weights_the_error_is_the_one_of_theory(name):
    weight = draw(1024, 512)
    for double in (False, True):
        found = (stored(weight, name, double_quant=double).weight() - weight).square().mean()
        assert float(found) == pytest.approx(expected_error(name), rel=0.01)


def test_normal_weights_lose_least_in_nf4_and_most_in_fp4():
    """Floats leave a gap of a sixth around zero, where most normal weights are; even ones suit int4."""
    errors = {name: expected_error(name) for name in ("nf4", "int4", "fp4")}
    assert list(errors) == sorted(errors, key=errors.__getitem__)
    even = torch.rand(512, 512) * 2 - 1
    found = {name: float((stored(even, name).weight() - even).square().mean()) for name in errors}
    assert min(found, key=found.__getitem__) == "int4"
    assert found["int4"] == pytest.approx((1 / 7) ** 2 / 12, rel=0.05)  # of a step of 1/7, as blocks reach 1


@pytest.mark.parametrize(("double", "bits"), [(False, 4 + 32 / 64), (True, 4 + 8 / 64 + 32 / (64 * 256))])
def test_bits_are_counted_from_what_is_stored(double, bits):
    base = stored(draw(512, 512), double_quant=double)
    offset = 32 * double / 512**2  # one per matrix
    assert 8 * base.nbytes / 512**2 == pytest.approx(bits + offset, abs=1e-12)
    assert base.nbytes == stored(draw(512, 512), "nf4", double_quant=double).nbytes


def test_scales_in_8_bits_are_those_of_bitsandbytes():
    weight = draw(96, 80)
    ours, theirs = (stored(weight, name, double_quant=True).state for name in ("int4", "nf4"))
    assert torch.equal(ours.absmax, theirs.absmax) and torch.equal(ours.offset, theirs.offset)
    assert torch.equal(ours.state2.absmax, theirs.state2.absmax)
    scales = functional.dequantize_blockwise(theirs.absmax, theirs.state2) + theirs.offset
    expected = torch.tensor(by_hand(weight)[1].reshape(-1, 64)) / 7 * scales[:, None]
    assert_close(stored(weight, double_quant=True).weight().view(-1, 64), expected.float())


# --- as a storage


def test_it_is_registered_with_its_options():
    assert set(FORMATS) >= {"nf4", "fp4", *BOOKS} and set(FORMATS) <= set(names("storage"))
    assert reads("storage", "int4") == reads("storage", "nf4") == ("double_quant", "compute")
    weight = draw(64, 64)
    for double in (False, True):
        base = get("storage", "int4")(weight, transposed=False, options={"double_quant": double})
        assert torch.equal(base.weight(), stored(weight, double_quant=double).weight())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_rounded_from_thirty_two(dtype):
    base = stored(draw(96, 80), double_quant=True)
    assert torch.equal(base.weight(dtype), base.weight().to(dtype))


def test_a_copy_shares_the_scales_and_a_cast_changes_nothing():
    base = stored(draw(64, 64), double_quant=True)
    copied = copy.deepcopy(base)
    assert copied.state is base.state and copied.packed is not base.packed
    assert torch.equal(copied.weight(), base.weight())
    assert torch.equal(base.to(torch.float64).weight(), copied.weight())
    moved = copy.deepcopy(base).to("meta")
    assert moved.state is not base.state and moved.weight().device.type == "meta"
    assert (moved.state.absmax.device.type, base.state.absmax.device.type) == ("meta", "cpu")


def test_a_model_trains_on_it_and_merges(tiny_model, tokens):
    run = RunConfig(0, r=2, targets="all", axes={"storage": "int4"}, options={"double_quant": False})
    attached = attach(tiny_model("bert"), [run])
    optimiser, losses = torch.optim.AdamW([t.parameter for t in attached.trained], lr=1e-2), []
    for _ in range(4):
        attached.before_step()
        loss = attached.model(input_ids=tokens(), labels=torch.tensor([0, 1, 2, 0])).loss
        loss.backward()
        optimiser.step()
        attached.after_step(0)
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    ours = attached.model(input_ids=tokens()).logits
    assert {p.dtype for p in merge(attached, 0).parameters()} == {torch.bfloat16}
    assert_close(
        merge(attached, 0, dtype=torch.float32)(input_ids=tokens()).logits, ours, rtol=1e-4, atol=1e-5
    )
