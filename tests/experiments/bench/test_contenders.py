"""Contenders do the same work: equal losses at the start, equal steps afterwards, and the base left alone."""

import copy

import pytest
import torch

from experiments.bench import contenders
from variants import backbone_linears

pytest.importorskip("peft")


@pytest.mark.parametrize("variant", contenders.VARIANTS)
def test_all_share_a_base_that_stays_as_it_is(variant, work):
    before = copy.deepcopy(work.model.state_dict())
    made = [make(work, variant, r=3, targets="qv") for make in (contenders.ours, contenders.peft)]
    made.append(contenders.floor(work, targets="qv", variant=variant))
    for contender in made:
        for _ in range(2):
            contender.step()
    assert all(torch.equal(value, before[name]) for name, value in work.model.state_dict().items())


def share_the_head(model, peft):
    """PEFT starts from the checkpoint's head, ours from its own draw: give PEFT ours."""
    theirs = peft.base_model.model.score.modules_to_save["default"]
    theirs.weight.data.copy_(model.score.weight.data[0])


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_losses_are_those_of_peft_over_several_steps(variant, work):
    ours = contenders.ours(work, variant, r=3, targets="all")
    peft = contenders.peft(work, variant, r=3, targets="all")
    share_the_head(ours.model, peft.model)
    named = dict(peft.model.named_parameters())
    for name, p in ours.model.named_parameters():
        if name.endswith(".deltas.0.A"):
            named[f"base_model.model.{name.removesuffix('.deltas.0.A')}.lora_A.default.weight"].data.copy_(
                p[0]
            )
    for _ in range(5):
        assert work.loss(ours.model).item() == pytest.approx(work.loss(peft.model).item(), rel=1e-5)
        ours.step()
        peft.step()


def test_on_four_bits_peft_has_the_layers_of_bitsandbytes_and_our_codes(work):
    bnb = pytest.importorskip("bitsandbytes")
    ours = contenders.ours(work, "qlora", r=3, targets="all").model
    peft = contenders.peft(work, "qlora", r=3, targets="all").model
    share_the_head(ours, peft)
    assert type(peft.base_model.model.model.layers[0].self_attn.q_proj).__name__ == "Linear4bit"
    inside = [m for m in peft.modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert len(inside) == len(backbone_linears(work.model)) == 14
    assert work.loss(ours).item() == pytest.approx(work.loss(peft).item(), rel=1e-5)


def test_the_floor_goes_backward_through_the_frozen_maps_only(work):
    floor = contenders.floor(work, targets="qv")
    assert not any(p.requires_grad for p in floor.model.parameters())
    floor.step()
    assert all(p.grad is None for p in floor.model.parameters())


def test_adalora_is_measured_where_it_prunes(work):
    ours = contenders.ours(work, "adalora", r=4, targets="all")
    ours.step()
    alive = [p for name, p in ours.model.named_parameters() if name.endswith(".L")]
    assert all(len(p[0]) == 6 for p in alive)
    ours.step()
    assert any((p == 0).any() for p in alive)
