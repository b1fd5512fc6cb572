"""match=...: ranks of equal cost, against closed forms and against trying every rank."""

import dataclasses
import json

import pytest

from experiments.sizing.counts import adapter_roles, base_bytes
from experiments.sizing.match import cost, matched, nearest_rank
from experiments.sizing.skeleton import skeleton as skeleton_of
from experiments.spec import from_record
from experiments.sweep.plan import matching_notes


@pytest.fixture
def on_tiny(cells_of, tiny_bert):
    """Specs of a command on a tiny BERT: width 24, inner width 40, 2 layers."""
    return lambda command: cells_of(f"{command} model=hf model.path={tiny_bert}")


def solved(specs, kind="parameters"):
    result, problems = matched(specs, kind, skeletons=skeleton_of)
    assert problems == []
    return result


def ranks(specs, variant):
    return {spec.matched: spec.r for spec in specs if spec.variant == variant}


def size(spec):
    return sum(adapter_roles(spec, skeleton_of(spec)).values())


def test_closed_forms(on_tiny):
    """One map of q or v costs 48 r for LoRA, 48 r + 24 for DoRA, 49 ceil(1.5 r) for AdaLoRA."""
    specs = solved(on_tiny("variant=adalora,lora,dora,rslora r=4,8,16"))
    assert ranks(specs, "dora") == {4: 3, 8: 7, 16: 15}  # 48 r + 24 = 48 r0 half-way: the smaller
    assert ranks(specs, "rslora") == {4: 4, 8: 8, 16: 16}
    assert ranks(specs, "adalora") == {4: 2, 8: 5, 16: 10}  # starts at 3 (5 is too many), 8, 15
    assert [spec.r for spec in specs if spec.variant == "lora"] == [4, 8, 16]


@pytest.mark.parametrize("kind", ["parameters", "memory"])
@pytest.mark.parametrize("targets", ["qv", "mlp", "all"])
@pytest.mark.parametrize("variant", ["dora", "adalora", "loraplus", "loha", "randlora"])
def test_no_rank_is_nearer(on_tiny, kind, targets, variant):
    for spec in solved(on_tiny(f"variant=lora,{variant} r=3,5,9,14 targets={targets}"), kind):
        if spec.matched is None:
            continue
        skeleton = skeleton_of(spec)
        reference = dataclasses.replace(spec, options={}, axes={**spec.axes, "delta": "lora"})
        budget = cost(reference, spec.matched, skeleton, kind)
        gaps = {r: abs(cost(spec, r, skeleton, kind) - budget) for r in range(1, 17)}
        assert spec.r == min(gaps, key=lambda r: (gaps[r], r))


def test_blocks_that_learn_as_a_whole_cannot_be_matched(on_tiny):
    specs = on_tiny("variant=lora,dora r=4 variant.unfreeze_top=1")
    _, problems = matched(specs, "parameters", skeletons=skeleton_of)
    assert problems and all("with variant.unfreeze_top blocks learn as a whole" in p for p in problems)


def test_budgets_are_met_within_half_a_step(on_tiny):
    specs = solved(on_tiny("variant=lora,dora,adalora r=4,7,12 targets=all"))
    lora = {spec.r: size(spec) for spec in specs if spec.variant == "lora"}
    for spec in specs:
        if spec.matched is not None:
            step = size(dataclasses.replace(spec, r=spec.r + 1)) - size(spec)
            assert abs(size(spec) - lora[spec.matched]) <= step


def test_a_four_bit_base_leaves_room_for_a_larger_rank(on_tiny):
    specs = solved(on_tiny("variant=lora,qlora r=2 targets=qv"), "memory")
    (quantised,) = (spec for spec in specs if spec.variant == "qlora")
    (plain,) = (spec for spec in specs if spec.variant == "lora")
    skeleton = skeleton_of(plain)
    saved = base_bytes(plain, skeleton) - base_bytes(quantised, skeleton)
    per_rank = 16 * 4 * 48  # 16 bytes of each of the 48 parameters of 4 maps
    assert quantised.r == 2 + round(saved / per_rank)


def test_layers_may_differ(on_tiny):
    """All maps of a layer cost 4 * 48 + 2 * 64 = 320 r, its q and v 96 r."""
    specs = solved(on_tiny("variant=lora,qlora r=10"))
    assert ranks(specs, "qlora") == {10: 3}


def test_baselines_and_other_words_stay_as_they_are(on_tiny):
    specs = on_tiny("variant=full,lora,dora r=4 seed=0,1 lr=0.001,0.002")
    found = solved(specs)
    assert [spec for spec in found if spec.variant != "dora"] == [s for s in specs if s.variant != "dora"]
    assert [(s.seed, s.lr) for s in found] == [(s.seed, s.lr) for s in specs]


def test_a_matched_run_is_the_ordinary_run_at_its_rank(on_tiny):
    (_, spec), (_, plain) = solved(on_tiny("variant=lora,dora r=8")), on_tiny("variant=lora,dora r=7")
    assert spec != plain
    assert spec.run_id("data") == plain.run_id("data")
    assert spec.as_record() == {**plain.as_record(), "matched": 8}
    assert from_record(json.loads(json.dumps(spec.as_record()))) == spec
    assert "matched" not in plain.as_record()


def test_the_first_variant_is_the_reference_where_lora_is_not_there(on_tiny):
    specs = solved(on_tiny("variant=dora,adalora r=6"))
    assert [(s.variant, s.r, s.matched) for s in specs] == [("dora", 6, None), ("adalora", 4, 6)]


def test_it_is_said(on_tiny):
    specs = solved(on_tiny("variant=lora,dora r=4,8 seed=0,1"))
    assert matching_notes(specs) == ["match: dora has r=3 for r=4, r=7 for r=8 of the reference."]


def refused(specs, kind="parameters", skeletons=skeleton_of):
    _, (problem,) = matched(specs, kind, skeletons=skeletons)
    return problem


def test_what_cannot_be_matched_is_said(on_tiny):
    few = refused(on_tiny("variant=lora,qlora r=1"))  # all maps: 320 in each of 2 layers
    assert "at least 640 (r=1)" in few
    many = refused(on_tiny("variant=qlora,dora r=12"))  # all maps: 7,680; dora: 192 r + 96, r <= 24
    assert "at most 4,704 (r=24)" in many and "Lower r" in many
    assert "variant=dora alone" in refused(on_tiny("variant=dora,full"))
    assert "no variant that has one" in refused(on_tiny("variant=full"))
    assert "match no linear map" in refused(on_tiny("variant=lora,dora targets=[qurey]"))
    assert "not on this machine" in refused(on_tiny("variant=lora,dora"), skeletons=lambda spec: None)


def test_a_delta_of_ones_own_is_refused(on_tiny):
    lora, dora = on_tiny("variant=lora,dora")
    strange = dataclasses.replace(dora, axes={**dora.axes, "delta": "mine"})
    assert "delta=mine" in refused([lora, strange])


@pytest.mark.parametrize(
    ("budget", "rank"), [(0, 0), (23, 0), (24, 0), (25, 1), (71, 1), (73, 2), (10**9, 25)]
)
def test_the_nearest_rank(on_tiny, budget, rank):
    (spec,) = on_tiny("variant=lora targets=[query] variant.layers=0")  # 48 r
    assert nearest_rank(spec, budget, skeleton_of(spec)) == (rank, 24)


def test_a_command_may_ask_for_it(on_tiny):
    specs = on_tiny("variant=lora,dora r=4 match=parameters")
    assert [(s.variant, s.r, s.matched) for s in specs] == [("lora", 4, None), ("dora", 3, 4)]
