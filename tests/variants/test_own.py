"""Deltas of one's own, each a file in another folder: they pass the contract unchanged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import variants
from variants import RunConfig, attach, attach_peft, get, merge, peft_form, read_peft, write_peft
from variants._core import costs, registry

OWN = Path(__file__).parent / "own"
NAMES = ("lora_fa", "vera_like", "loha_like")


@pytest.fixture
def own(monkeypatch):
    """The folder of our own deltas is searched, as with ABLORA_VARIANTS, until the test ends."""
    caches = (registry._sources, registry._index, registry._discover, costs._declaration)
    monkeypatch.setattr(variants, "__path__", [*variants.__path__, str(OWN)])
    for cache in caches:
        cache.cache_clear()
    yield
    for name in NAMES:
        registry._parts.pop(("delta", name), None)
        sys.modules.pop(f"variants.{name}", None)
    for cache in caches:
        cache.cache_clear()


def test_the_whole_contract_holds_for_them():
    tests = Path(__file__).with_name("test_contract.py")
    line = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(tests)]
    environment = {**os.environ, "ABLORA_VARIANTS": str(OWN)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    listed = subprocess.run(
        [*line, "--collect-only"], env=environment, capture_output=True, text=True, check=True
    )
    assert all(f"{name}-" in listed.stdout for name in NAMES)


def moved(model, *seeds, delta, **options):
    """A pack away from where it starts."""
    attached = attach(model, [RunConfig(s, r=2, axes={"delta": delta}, **options) for s in seeds])
    source = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for t in attached.trained:
            t.parameter += 0.3 * torch.randn(t.parameter.shape, generator=source)
    return attached


@pytest.mark.parametrize("name", NAMES)
def test_what_is_fixed_is_neither_trained_nor_counted_and_comes_again_from_the_seed(own, name, tiny_model):
    first, second = (moved(tiny_model("bert"), 3, delta=name) for _ in range(2))
    kind = get("delta", name)
    for held, other in zip(first.held()[kind], second.held()[kind], strict=True):
        own_names = {n for n, _ in held.delta.named_parameters()}
        assert own_names == {*held.delta.roles, *held.delta.frozen}
        for fixed in held.delta.frozen:
            assert not getattr(held.delta, fixed).requires_grad
            assert torch.equal(getattr(held.delta, fixed), getattr(other.delta, fixed))
    trained = {t.name.rpartition(".")[2] for t in first.trained if ".deltas." in t.name}
    assert trained == set(kind.roles)
    assert set(first.kept(0)) == {t.name for t in first.trained}


def test_a_shared_tensor_is_one_for_all_layers_and_another_for_each_run(own, tiny_model):
    attached = moved(tiny_model("bert"), 3, 4, delta="vera_like", targets="all")
    deltas = [held.delta for layer in attached.layers.values() for held in layer.held]
    by_size = {}
    for delta in deltas:
        by_size.setdefault(delta.A.shape[2], set()).add(delta.A.data_ptr())
    assert set(by_size) == {12, 20} and all(len(pointers) == 1 for pointers in by_size.values())
    assert not torch.equal(deltas[0].A[0], deltas[0].A[1])
    alone = moved(tiny_model("bert"), 4, delta="vera_like", targets="all")
    assert torch.equal(next(iter(alone.layers.values())).held[0].delta.A[0], deltas[0].A[1])


@pytest.mark.parametrize("name", NAMES)
def test_counts_are_those_of_the_attached_model(own, name, tiny_model):
    attached = moved(tiny_model("bert"), 0, delta=name, targets="all")
    by_role = {}
    for t in attached.trained:
        if ".deltas." in t.name:
            by_role[t.role] = by_role.get(t.role, 0) + t.parameter[0].numel()
    counted = {}
    for layer in attached.layers.values():
        for role, n in costs.delta_sizes(name, 2, layer.base.d_in, layer.base.d_out).items():
            counted[role] = counted.get(role, 0) + n
    assert counted == by_role
    at_zero = costs.delta_sizes(name, 0, 7, 5)
    assert sum(at_zero.values()) == {"vera_like": 5}.get(name, 0)  # b has an entry per output at any rank


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_gives_the_same_model_again(own, name, tiny_model, tokens):
    ids = tokens()
    attached = moved(tiny_model("bert"), 5, delta=name)
    again = attach(tiny_model("bert"), [RunConfig(5, r=2, axes={"delta": name})])
    again.put_back(0, {key: tensor.clone() for key, tensor in attached.kept(0).items()})
    expected = attached.model(input_ids=ids).logits
    assert torch.equal(again.model(input_ids=ids).logits, expected)
    assert_close(merge(attached, 0)(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"expected \d+ tensors, found 0"):
        again.put_back(0, {})


def test_what_a_run_of_a_pack_keeps_goes_into_a_solo_model(own, tiny_model, tokens, monkeypatch):
    """Its names are those of a solo run, whatever else is on the layer; what is fixed but saved included."""
    monkeypatch.setattr(get("delta", "lora_fa"), "frozen", {"A": "saved"})
    kept = RunConfig(5, r=2, axes={"delta": "lora_fa"})
    pack = attach(tiny_model("bert"), [RunConfig(4, r=3, targets="all"), kept])
    source = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in (*(t.parameter for t in pack.trained), *pack.kept(1).values()):
            tensor += 0.3 * torch.randn(tensor.shape, generator=source)
    alone = attach(tiny_model("bert"), [RunConfig(6, r=2, axes={"delta": "lora_fa"})])
    alone.put_back(0, {name: tensor.clone() for name, tensor in pack.kept(1).items()})
    ids = tokens()
    expected = pack.model(input_ids=ids.repeat(2, 1)).logits[len(ids) :]
    assert_close(alone.model(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)
    state = pack.state_dict(1)
    assert state["frozen"].keys() == alone.state_dict(0)["frozen"].keys() and len(state["frozen"]) == 4
    pack.load_state_dict(1, state)


def test_lora_with_a_frozen_factor_is_a_lora_to_others(own, tiny_model, tokens, tmp_path):
    attached = moved(tiny_model("bert"), 5, delta="lora_fa")
    assert peft_form(attached, 0) == "lora"
    write_peft(attached, 0, tmp_path / "adapter")
    read = attach_peft(tiny_model("bert"), [read_peft(tmp_path / "adapter")])
    assert read.runs[0].axis("delta") == "lora"
    ids = tokens()
    assert_close(read.model(input_ids=ids).logits, attached.model(input_ids=ids).logits)


@pytest.mark.parametrize(("name", "kind"), [("vera_like", "VeRALike"), ("loha_like", "LoHaLike")])
def test_what_peft_cannot_hold_is_refused_in_a_sentence(own, name, kind, tiny_model, tmp_path):
    attached = moved(tiny_model("bert"), 5, delta=name)
    assert peft_form(attached, 0) is None
    with pytest.raises(ValueError, match=f"PEFT's form 'lora' does not hold what {kind} trains; export it"):
        write_peft(attached, 0, tmp_path / "adapter")


def test_a_fixed_tensor_that_no_seed_gives_again_is_kept_with_the_run(own, tiny_model, monkeypatch):
    kind = get("delta", "lora_fa")
    monkeypatch.setattr(kind, "frozen", {"A": "saved"})
    attached = moved(tiny_model("bert"), 5, delta="lora_fa")
    with torch.no_grad():
        for held in attached.held()[kind]:
            held.delta.A.mul_(1.7)
    state = attached.state_dict(0)
    again = attach(tiny_model("bert"), [RunConfig(5, r=2, axes={"delta": "lora_fa"})])
    again.load_state_dict(0, state)
    for held, other in zip(attached.held()[kind], again.held()[kind], strict=True):
        assert torch.equal(held.delta.A, other.delta.A)
    names = {key.rpartition(".")[2] for key in attached.kept(0) if ".deltas." in key}
    assert names == {"A", "B"}


def test_two_files_of_one_name_are_refused(own, tmp_path, monkeypatch):
    (tmp_path / "lora.py").write_text('"""Another."""\n')
    monkeypatch.setattr(variants, "__path__", [*variants.__path__, str(tmp_path)])
    registry._sources.cache_clear()
    with pytest.raises(ValueError, match=r"lora\.py bears the name of .*lora\.py: give it another"):
        registry._sources()
