"""Losses of tokens in training: their gradient is that of all logits at once, and few are held at a time."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F

from experiments.training import losses
from experiments.training.batch import Batch
from experiments.training.losses import backward_of_tokens, plain_head
from variants import RunConfig, attach

K, ROWS, LENGTH = 3, 2, 19


@pytest.fixture
def batch():
    """Rows with unequal numbers of targets, one of them with none."""
    draw = torch.Generator().manual_seed(3)
    ids = torch.randint(3, 61, (K * ROWS, LENGTH), generator=draw)
    mask = (torch.arange(LENGTH) < torch.tensor([19, 7, 12, 19, 3, 15])[:, None]).long()
    first = torch.tensor([4, 7, 0, 18, 1, 2])[:, None]
    labels = torch.where((torch.arange(LENGTH) >= first) & mask.bool(), ids, -100)
    return Batch(ids * mask, mask, labels)


def pack(model, seeds=(5, 6, 7)):
    runs = [
        RunConfig(seed=s, targets="all", r=2 + i, alpha=5.0, axes={"delta": "lora"}, options={}, steps=4)
        for i, s in enumerate(seeds)
    ]
    attached = attach(model.double(), runs)
    with torch.no_grad():
        for trained in attached.trained:
            trained.parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(9))
    return attached


def by_all_logits(model, batch, scale, penalty):
    """The loss as its definition has it."""
    logits = model(**batch.inputs()).logits
    rows = F.cross_entropy(
        logits[:, :-1].transpose(1, 2), batch.labels[:, 1:], ignore_index=-100, reduction="none"
    )
    loss = rows.sum(1).view(K, ROWS).sum(1) / scale
    (loss + penalty).sum().backward()
    return loss.detach()


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "opt"])
@pytest.mark.parametrize("held", [61 * 4, 1 << 24])
def test_the_gradient_is_that_of_all_logits_at_once(kind, held, batch, monkeypatch, decoder):
    attached, scale = pack(decoder(kind)), torch.tensor([11.0, 3.0, 7.0])
    model, sizes = attached.model, []

    def penalty():
        return torch.stack([t.parameter.square().sum() for t in attached.trained]).sum() * torch.ones(K)

    expected = by_all_logits(model, batch, scale, penalty())
    gradients = [t.parameter.grad.clone() for t in attached.trained]
    for trained in attached.trained:
        trained.parameter.grad = None
    monkeypatch.setattr(losses, "LOGITS", held)
    head = plain_head(model, batch)
    handle = head.register_forward_hook(lambda *found: sizes.append(found[2].shape))
    found = backward_of_tokens(model, head, batch, scale, precision=nullcontext, penalty=penalty())
    handle.remove()
    assert found == pytest.approx(expected, rel=1e-6)
    assert min(g.abs().max() for g in gradients) > 0
    for trained, gradient in zip(attached.trained, gradients, strict=True):
        torch.testing.assert_close(trained.parameter.grad, gradient, rtol=1e-9, atol=1e-12)
    targets = int((batch.labels[:, 1:] != -100).sum())
    chunks = [shape for shape in sizes if len(shape) == 2]
    assert sum(shape[0] for shape in chunks) == targets < K * ROWS * LENGTH
    assert max(shape.numel() for shape in chunks) <= held
    assert not head._forward_pre_hooks


def test_a_step_without_a_target_has_no_loss_and_no_gradient(batch, decoder):
    attached = pack(decoder("llama"))
    empty = Batch(batch.input_ids, batch.attention_mask, torch.full_like(batch.labels, -100))
    head = plain_head(attached.model, empty)
    found = backward_of_tokens(attached.model, head, empty, torch.ones(K), precision=nullcontext)
    assert found.tolist() == [0.0] * K
    assert all(t.parameter.grad is None or not t.parameter.grad.any() for t in attached.trained)


def test_nan_in_one_run_stays_there(batch, decoder):
    attached, scale = pack(decoder("llama")), torch.ones(K)
    head = plain_head(attached.model, batch)
    clean = backward_of_tokens(attached.model, head, batch, scale, precision=nullcontext)
    for tensor in attached.tensors(1).values():
        tensor.fill_(float("nan"))
    found = backward_of_tokens(attached.model, head, batch, scale, precision=nullcontext)
    assert found[1].isnan() and found[[0, 2]].equal(clean[[0, 2]])


@pytest.mark.parametrize("kind", ["gemma2", "granite", "cohere"])
def test_logits_that_the_model_changes_are_all_made(kind, batch, decoder):
    attached = pack(decoder(kind))
    assert plain_head(attached.model, batch) is None


def test_classes_have_no_such_head(batch, decoder):
    classes = Batch(batch.input_ids, batch.attention_mask, batch.labels[:, 0])
    assert plain_head(decoder("llama"), classes) is None
