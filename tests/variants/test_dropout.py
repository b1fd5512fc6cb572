"""Dropout of an adapter's input: a function of (seed, layer, step, micro-step), never of a running stream."""

import pytest
import torch
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture
def layer(layer_of):
    return layer_of("lora", runs=3, dropout=0.3).train()


def masks(layer, rows=64):
    delta = layer.held[0].delta
    x = torch.ones(layer.runs, rows, 7, dtype=torch.float64)
    return delta.dropped(x)


def test_a_mask_is_the_same_however_often_it_is_asked_for(layer):
    first = masks(layer)
    torch.rand(10)  # whatever a global stream does in between
    assert torch.equal(masks(layer), first)


def test_masks_differ_between_steps_micro_steps_runs_and_layers(layer, layer_of):
    clock = layer.held[0].delta.clock
    seen = [masks(layer)]
    clock.step = 1
    seen.append(masks(layer))
    clock.micro = 1
    seen.append(masks(layer))
    for i, a in enumerate(seen):
        assert not torch.equal(a[0], a[1])
        assert all(not torch.equal(a, b) for b in seen[i + 1 :])


def test_a_run_has_the_same_mask_in_a_pack_as_alone(layer, layer_of):
    for k in range(3):
        alone = layer_of("lora", seeds=[k], dropout=0.3).train()
        assert torch.equal(masks(layer)[k], masks(alone)[0])


def test_what_is_kept_is_scaled_up(layer):
    values, counts = masks(layer, rows=4000).unique(return_counts=True)
    assert_close(values, torch.tensor([0, 1 / 0.7], dtype=torch.float64), **EXACT)
    assert abs(counts[0] / counts.sum() - 0.3) < 0.01


def test_without_training_nothing_drops(layer, layer_of, rows):
    plain = layer_of("lora", runs=3)
    assert torch.equal(layer.eval()(rows(3)), plain(rows(3)))


def test_the_base_product_is_not_dropped(layer, rows):
    x = rows(3)
    held = layer.held[0]
    dropped = held.delta.dropped(x.view(3, -1, 7))
    W = layer.base.weight()
    change = torch.cat([d @ (w - W).T for d, w in zip(dropped, held.delta.weight(layer.base), strict=True)])
    expected = x @ W.T + layer.bias + change.view(6, 3, 5)
    assert_close(layer(x), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("delta", ["lora", "dora", "adalora"])
def test_a_second_pass_through_a_checkpointed_layer_drops_the_same(delta, layer_of, rows, gradients):
    layer = layer_of(delta, runs=3, dropout=0.3).train()
    x = rows(3)
    plain = gradients(layer, x)
    again = gradients(layer, x, out=checkpoint(layer, x, use_reentrant=False))
    assert_close(plain, again, rtol=0, atol=0)


def test_a_share_outside_its_range_is_refused(layer_of):
    with pytest.raises(ValueError, match=r"dropout 1\.0 at layer is out of range"):
        layer_of("lora", dropout=1.0)
