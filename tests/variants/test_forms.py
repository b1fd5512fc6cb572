"""Every delta on a model: what is fixed, what is kept, what others can read."""

import pytest
import torch
from torch.testing import assert_close

from variants import RunConfig, attach, attach_peft, get, merge, names, peft_form, read_peft, write_peft
from variants._core import costs

FROZEN = [name for name in names("delta") if get("delta", name).frozen]
DENSE = [name for name in names("delta") if not get("delta", name).low_rank]
FOLDED = [name for name in names("delta") if name not in ("lora", "dora", "adalora", *DENSE)]


def moved(model, *seeds, delta, **options):
    """A pack away from where it starts."""
    attached = attach(model, [RunConfig(s, r=2, axes={"delta": delta}, **options) for s in seeds])
    source = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for t in attached.trained:
            t.parameter += 0.3 * torch.randn(t.parameter.shape, generator=source)
    attached.after_load()
    return attached


def deltas(attached):
    return [held.delta for layer in attached.layers.values() for held in layer.held]


@pytest.mark.parametrize("name", FROZEN)
def test_what_is_fixed_is_neither_trained_nor_counted_and_comes_again_from_the_seed(name, tiny_model):
    first, second = (moved(tiny_model("bert"), 3, delta=name) for _ in range(2))
    kind = get("delta", name)
    for delta, other in zip(deltas(first), deltas(second), strict=True):
        assert {n for n, _ in delta.named_parameters()} == {*delta.roles, *delta.frozen}
        for fixed in delta.frozen:
            assert not getattr(delta, fixed).requires_grad
            assert torch.equal(getattr(delta, fixed), getattr(other, fixed))
    trained = {t.name.rpartition(".")[2] for t in first.trained if ".deltas." in t.name}
    assert trained == set(kind.roles)
    saved = {fixed for fixed, how in kind.frozen.items() if how == "saved"}
    kept = {key.rpartition(".")[2] for key in first.kept(0) if ".deltas." in key}
    assert kept == trained | saved


@pytest.mark.parametrize("name", ["vera", "miss", "randlora"])
def test_a_shared_tensor_is_one_for_all_layers_of_a_size(name, tiny_model):
    attached = moved(tiny_model("bert"), 3, 4, delta=name, targets="all")
    by_size = {}
    for delta in deltas(attached):
        by_size.setdefault(delta.A.shape[2], set()).add(delta.A.data_ptr())
    assert all(len(pointers) == 1 for pointers in by_size.values())
    alone = moved(tiny_model("bert"), 4, delta=name, targets="all")
    assert torch.equal(deltas(alone)[0].A[0], deltas(attached)[0].A[1])
    assert torch.equal(*deltas(attached)[0].A) == (name == "miss")  # which draws nothing


def test_veras_smaller_matrices_are_parts_of_the_larger_ones(tiny_model):
    """Up to the bound sqrt(6 / d_in), so that one pair serves layers of all sizes."""
    wide, narrow = {}, {}
    for delta in deltas(moved(tiny_model("bert"), 3, delta="vera", targets="all")):
        (wide if delta.A.shape[2] == 20 else narrow)["A"] = delta.A[0]
        (wide if delta.B.shape[1] == 20 else narrow)["B"] = delta.B[0]
    assert_close(wide["A"][:, :12] * (20 / 12) ** 0.5, narrow["A"])
    assert torch.equal(wide["B"][:12], narrow["B"])
    assert 0.8 * (6 / 12) ** 0.5 < narrow["A"].abs().max() <= (6 / 12) ** 0.5


@pytest.mark.parametrize("name", names("delta"))
def test_what_is_kept_gives_the_same_model_again_and_so_does_the_merged_one(name, tiny_model, tokens):
    ids = tokens()
    attached = moved(tiny_model("bert"), 5, delta=name)
    again = attach(tiny_model("bert"), [RunConfig(5, r=2, axes={"delta": name})])
    again.put_back(0, {key: tensor.clone() for key, tensor in attached.kept(0).items()})
    expected = attached.model(input_ids=ids).logits
    assert torch.equal(again.model(input_ids=ids).logits, expected)
    assert_close(merge(attached, 0)(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"expected \d+ tensors, found 0"):
        again.put_back(0, {})


def test_what_a_run_of_a_pack_keeps_goes_into_a_solo_model(tiny_model, tokens):
    """Its names are those of a solo run, whatever else is on the layer; what is fixed but saved included."""
    kept = RunConfig(5, r=2, axes={"delta": "lora_xs"})
    pack = attach(tiny_model("bert"), [RunConfig(4, r=3, targets="all"), kept])
    source = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in (*(t.parameter for t in pack.trained), *pack.kept(1).values()):
            tensor += 0.3 * torch.randn(tensor.shape, generator=source)
    alone = attach(tiny_model("bert"), [RunConfig(6, r=2, axes={"delta": "lora_xs"})])
    alone.put_back(0, {name: tensor.clone() for name, tensor in pack.kept(1).items()})
    ids = tokens()
    expected = pack.model(input_ids=ids.repeat(2, 1)).logits[len(ids) :]
    assert_close(alone.model(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)
    state = pack.state_dict(1)
    assert state["frozen"].keys() == alone.state_dict(0)["frozen"].keys() and len(state["frozen"]) == 8
    pack.load_state_dict(1, state)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@pytest.mark.parametrize("name", FOLDED)
def test_a_change_of_low_rank_is_a_lora_to_others(name, kind, tiny_model, tokens, tmp_path):
    peft = pytest.importorskip("peft")
    attached = moved(tiny_model(kind), 5, delta=name, targets="all")
    assert peft_form(attached, 0) == ("lora" if name == "lora_fa" else None)  # what the run itself is kept as
    write_peft(attached, 0, tmp_path / "adapter")
    ids = tokens()
    expected = attached.model(input_ids=ids).logits
    read = attach_peft(tiny_model(kind), [read_peft(tmp_path / "adapter")])
    assert read.runs[0].axis("delta") == "lora"
    assert_close(read.model(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)
    other = peft.PeftModel.from_pretrained(tiny_model(kind), tmp_path / "adapter").eval()
    assert_close(other(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DENSE)
def test_another_form_is_refused_in_a_sentence(name, tiny_model, tmp_path):
    attached = moved(tiny_model("bert"), 5, delta=name)
    assert peft_form(attached, 0) is None
    kind = get("delta", name).__name__
    with pytest.raises(ValueError, match=f"PEFT's form 'lora' does not hold what {kind} trains; export it"):
        write_peft(attached, 0, tmp_path / "adapter")


def test_only_the_bottleneck_is_kept_for_the_backward_pass_where_a_is_frozen(layer_of, rows):
    """LoRA-FA's memory: r numbers of a token, and not the d_in of the layer's input."""

    def kept(delta):
        sizes = []
        layer, x = layer_of(delta), rows()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            layer(x)
        return sizes

    assert rows().numel() in kept("lora")
    for name in ("lora_fa", "vera", "lora_xs", "tinylora", "miss"):
        assert rows().numel() not in kept(name)


@pytest.mark.parametrize("blocks", [2, 5])
def test_blocks_that_do_not_divide_the_rank_are_refused(blocks, layer_of):
    with pytest.raises(ValueError, match=f"blocks {blocks} does not divide the rank 3 of layer: take 1, 3"):
        layer_of("gralora", options={"blocks": blocks})


def test_runs_of_unlike_options_do_not_share_a_stack(tiny_model):
    for name, option in (("gralora", "blocks"), ("fourierft", "n_per_r"), ("tinylora", "u")):
        runs = [RunConfig(s, r=4, axes={"delta": name}, options={option: s}) for s in (1, 2, 4)]
        pack = attach(tiny_model("bert"), runs)
        assert all(len(layer.held) == 3 for layer in pack.layers.values())


def test_a_method_without_alpha_has_the_scale_one(tiny_model):
    run = RunConfig(0, r=2, alpha=None, axes={"delta": "vera", "scaling": "none"})
    assert attach(tiny_model("bert"), [run]).summary(0)["scale"] == 1.0
    assert costs.unscaled(16.0, 8) == 1.0
