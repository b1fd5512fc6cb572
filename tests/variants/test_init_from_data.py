"""Starts that see data or the dense weight first: literal transcriptions of the papers, and PEFT's own."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from variants import RunConfig, attach, write_peft
from variants._core.init import Init

R, ALPHA = 2, 5.0
CLOSE = {"rtol": 1e-7, "atol": 1e-9}
KEY = "bert.encoder.layer.1.attention.self.key"
SIZES = {KEY: (12, 12), "bert.encoder.layer.0.intermediate.dense": (20, 12)}


def run(init, seed=0, delta="lora", **options):
    return RunConfig(
        seed, r=R, alpha=ALPHA, targets="all", axes={"delta": delta},
        options={"init": init, "init_batches": 2, **options},
    )  # fmt: skip


@pytest.fixture
def batches(tokens):
    """Two batches of a run, rows of different lengths; another run's are reversed."""
    mask = (torch.arange(6) < torch.tensor([6, 4, 5, 3])[:, None]).long()
    found = []
    for shift in (0, 7):
        ids = ((tokens() + shift) % 29 + 2) * mask
        found.append({"input_ids": ids, "attention_mask": mask})
    return found


def loss(model, batch, runs=1):
    """Of each run on its rows, the sum over the runs."""
    logits = model(**batch).logits.view(runs, 4, 3)
    labels = batch["input_ids"].view(runs, 4, 6)[..., 0] % 3
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()) * runs


def shown(model, runs, batches):
    """The pack after its inits have seen the batches, each run's own rows in every one."""
    attached = attach(model, runs, fresh=())  # with the model's own head
    attached.model.eval()
    with attached.observing():
        for step, batch in enumerate(batches):
            attached.clock.step, attached.clock.mask = step, batch["attention_mask"]
            loss(attached.model, batch, len(runs)).backward()
    assert not attached.waiting()
    return attached


@pytest.fixture
def seen(tiny_model, batches):
    """Inputs (real tokens), and gradients of W, by module, of the plain model on the batches."""
    model, inputs, hooks = tiny_model("bert").double().eval(), {}, []
    for name in SIZES:
        module = model.get_submodule(name)
        module.weight.grad = None

        def keep(_, args, name=name):
            inputs.setdefault(name, []).append(args[0][batch["attention_mask"].bool()].detach())

        hooks.append(module.register_forward_pre_hook(keep))
    for batch in batches:
        loss(model, batch).backward()
    return {name: (torch.cat(inputs[name]), model.get_submodule(name).weight.grad.clone()) for name in SIZES}


def factors(attached, name, k=0):
    held, i = attached.slots(k)[name]
    return held.delta.A.detach()[i], held.delta.B.detach()[i]


def same_up_to_signs(rows, expected, **tolerance):
    signs = (rows * expected).sum(1, keepdim=True).sign()
    assert_close(signs * rows, expected, **tolerance)


def test_eva_starts_with_the_principal_components_of_the_input(tiny_model, batches, seen):
    attached = shown(tiny_model("bert").double(), [run("eva")], batches)
    for name, (X, _) in seen.items():
        A, B = factors(attached, name)
        V = torch.linalg.svd(X - X.mean(0), full_matrices=False)[2]
        same_up_to_signs(A, V[:R], **CLOSE)
        assert not B.any()
        kept = ((X - X.mean(0)) @ A.mT).square().sum() / (X - X.mean(0)).square().sum()
        S = torch.linalg.svdvals(X - X.mean(0)).square()
        assert_close(kept, S[:R].sum() / S.sum())  # the explained variance is the most that r directions can


EVERY = ("query", "intermediate.dense", "output.dense")  # maps that do not share an input


def spread(rho, seed=0, **options):
    return RunConfig(
        seed, r=R, alpha=ALPHA, targets=EVERY,
        options={"init": "eva", "init_batches": 2, "rho": rho, **options},
    )  # fmt: skip


def test_evas_ranks_move_to_where_they_explain_most(tiny_model, batches):
    """Section 3 of the paper by hand: the N r largest ratios of all maps' first rho r directions."""
    plain, inputs = tiny_model("bert").double().eval(), {}
    attached = shown(tiny_model("bert").double(), [spread(2.0)], batches)
    for name in attached.slots(0):

        def keep(_, args, name=name):
            inputs.setdefault(name, []).append(args[0][batch["attention_mask"].bool()].detach())

        plain.get_submodule(name).register_forward_pre_hook(keep)
    for batch in batches:
        plain(**batch)
    ratios, directions = {}, {}
    for name, found in inputs.items():
        X = torch.cat(found)
        _, S, directions[name] = torch.linalg.svd(X - X.mean(0), full_matrices=False)
        ratios |= {(name, i): float(xi) for i, xi in enumerate((S.square() / S.square().sum())[: 2 * R])}
    chosen = sorted(ratios, key=ratios.get, reverse=True)[: R * len(inputs)]
    ranks = {name: sum(name == other for other, _ in chosen) for name in inputs}
    assert len(set(ranks.values())) > 1  # some moved
    assert attached.summary(0)["rank"] == ranks
    shapes = {name: (layer.base.d_in, layer.base.d_out) for name, layer in attached.layers.items()}
    head = sum(p[0].numel() for h in attached.heads.values() for p in h.parameters())
    assert attached.count(0) == head + sum(r * sum(shapes[name]) for name, r in ranks.items())
    for name, r in ranks.items():
        A, _ = factors(attached, name)
        same_up_to_signs(A[:r], directions[name][:r], **CLOSE)
        assert len(A) == 2 * R and not A[r:].any()
        assert attached.slots(0)[name][0].delta.scale_of(0) == ALPHA / R


def adapted_of(model):
    """The modules that PEFT adapts, by name."""
    named = ((n.removeprefix("base_model.model."), m) for n, m in model.named_modules())
    return [(name, module) for name, module in named if hasattr(module, "lora_A")]


def test_what_eva_leaves_unused_stays_unused_and_out_of_an_export(tiny_model, batches, tmp_path):
    peft = pytest.importorskip("peft")
    attached = shown(tiny_model("bert"), [spread(2.0)], batches)
    ranks = attached.summary(0)["rank"]
    optimiser = torch.optim.AdamW([t.parameter for t in attached.trained], lr=0.05, weight_decay=0.1)
    for _ in range(5):
        loss(attached.model, batches[0]).backward()
        optimiser.step()
        optimiser.zero_grad()
    for name, r in ranks.items():
        A, B = factors(attached, name)
        assert not A[r:].any() and not B[:, r:].any() and B[:, :r].any() == (r > 0)
    assert attached.summary(0)["rank"] == ranks
    write_peft(attached, 0, tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(tiny_model("bert"), tmp_path / "adapter").eval()
    assert {n: m.r["default"] for n, m in adapted_of(model)} == {n: r for n, r in ranks.items() if r}
    assert_close(model(**batches[1]).logits, attached.model(**batches[1]).logits, rtol=1e-5, atol=1e-6)


def test_evas_ranks_are_those_of_peft(tiny_model, batches):
    peft, config = theirs(init_lora_weights="eva")
    config.target_modules, config.eva_config = set(EVERY), peft.EvaConfig(rho=2.0, tau=0.999)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(tiny_model("bert").eval(), config)
        both = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
        peft.initialize_lora_eva_weights(model, [both], show_progress_bar=False)
    found = dict(adapted_of(model))
    attached = shown(tiny_model("bert"), [spread(2.0)], batches)
    ranks = attached.summary(0)["rank"]
    assert len(set(ranks.values())) > 1
    assert {name: m.r["default"] for name, m in found.items()} == {name: r for name, r in ranks.items() if r}
    assert {m.scaling["default"] for m in found.values()} == {ALPHA / R}


def test_moved_ranks_and_an_inverse_of_gram_matrices_are_refused_together(tiny_model):
    wrong = spread(2.0)
    with pytest.raises(ValueError, match=r"set variant\.rho=1, or gradient=none"):
        attach(tiny_model("bert"), [replace(wrong, axes={"gradient": "riemannian"})])


def test_lora_ga_starts_as_its_algorithm_says(tiny_model, batches, seen):
    for delta in ("lora", "dora"):
        attached = shown(tiny_model("bert").double(), [run("lora_ga", delta=delta, init_gamma=9.0)], batches)
        for name, (_, G) in seen.items():
            A, B = factors(attached, name)
            U, _, Vt = torch.linalg.svd(G, full_matrices=False)
            size = SIZES[name][0] ** 0.25 / 9.0**0.5
            same_up_to_signs(A, size * Vt[:R], **CLOSE)
            same_up_to_signs(B.mT, size * U[:, R : 2 * R].mT, **CLOSE)
            W, after = attached.weights(0)[name]
            assert_close(after, W, rtol=1e-12, atol=1e-12)


def test_lora_gas_first_step_follows_the_gradient_as_far_as_rank_2r_can(tiny_model, batches, seen):
    """The paper's aim: B (dA) + (dB) A of the first step is the best approximation of rank 2 r of G."""
    for name, (_, G) in seen.items():
        A, B = factors(shown(tiny_model("bert").double(), [run("lora_ga")], batches), name)
        first = B @ (B.mT @ G) + (G @ A.mT) @ A
        U, S, Vt = torch.linalg.svd(G, full_matrices=False)
        best = U[:, : 2 * R] * S[: 2 * R] @ Vt[: 2 * R]
        size = (B.mT @ B)[0, 0]
        assert_close(first, size * best, **CLOSE)


def test_corda_decomposes_w_in_the_context_of_its_inputs(tiny_model, batches, seen):
    attached = shown(tiny_model("bert").double(), [run("corda")], batches)
    for name, (X, _) in seen.items():
        W, after = attached.weights(0)[name]
        C = X.mT @ X / len(X)
        C = C + 0.01 * C.diagonal().mean() * torch.eye(len(C), dtype=C.dtype)
        U, S, Vt = torch.linalg.svd(W @ C, full_matrices=False)
        A, B = factors(attached, name)
        assert_close(ALPHA / R * B @ A, U[:, :R] * S[:R] @ Vt[:R] @ C.inverse(), **CLOSE)
        assert_close(B.square().sum(0) * ALPHA / R, S[:R])
        assert_close(after, W, rtol=1e-11, atol=1e-11)


def test_each_run_of_a_pack_sees_its_own_rows(tiny_model, batches):
    """Solo and packed starts are the same; plain LoRA and DoRA beside them change nothing."""
    other = [{key: value.flip(0) for key, value in batch.items()} for batch in reversed(batches)]
    runs = [run("eva"), run("kaiming", 3, "dora"), run("lora_ga"), run("corda", 1, "dora"), run("pissa")]
    rows = [batches, other, batches, other, other]
    joint = [{key: torch.cat([b[i][key] for b in rows]) for key in batches[0]} for i in (0, 1)]
    pack = shown(tiny_model("bert").double(), runs, joint)
    assert len({id(layer.base) for layer in pack.layers.values()}) == len(pack.layers)
    for k, (one, own) in enumerate(zip(runs, rows, strict=True)):
        alone = attach(tiny_model("bert").double(), [one], fresh=())
        if alone.waiting():
            alone = shown(tiny_model("bert").double(), [one], own)
        for name, tensor in alone.tensors(0).items():
            assert_close(pack.tensors(k)[name], tensor, rtol=1e-7, atol=1e-9)


def test_only_as_many_batches_are_seen_as_the_option_says(tiny_model, batches):
    one = shown(tiny_model("bert").double(), [run("eva", init_batches=1)], batches)
    alone = shown(tiny_model("bert").double(), [run("eva")], batches[:1])
    assert torch.equal(factors(one, KEY)[0], factors(alone, KEY)[0])
    assert Init.batches(one.slots(0)[KEY][0].delta.slots[0]) == 0


def test_blocks_of_a_fused_map_see_their_own_part_of_the_gradient(tiny_model, tokens):
    model = tiny_model("gpt2").double()
    attached = attach(model, [RunConfig(0, r=R, targets="qv", options={"init": "lora_ga"})])
    ids, name = tokens(), "transformer.h.1.attn.c_attn"
    with attached.observing():
        attached.model(input_ids=ids).logits.square().sum().backward()
    plain = tiny_model("gpt2").double()
    plain.score.weight.data.copy_(attached.heads["score"].weight[0])
    plain(input_ids=ids).logits.square().sum().backward()
    G = plain.get_submodule(name).weight.grad.mT
    for block, rows in (("q", slice(0, 12)), ("v", slice(24, 36))):
        A, _ = factors(attached, f"{name}[{block}]")
        Vt = torch.linalg.svd(G[rows], full_matrices=False)[2]
        same_up_to_signs(A, 12**0.25 / 4 * Vt[:R], **CLOSE)


def test_what_was_seen_is_in_a_checkpoint(tiny_model, batches):
    """A0 and B0 come from data, not from the seed: a resume takes them from the state."""
    attached = shown(tiny_model("bert").double(), [run("corda"), run("kaiming", 1)], _doubled(batches))
    again = attach(tiny_model("bert").double(), [run("corda"), run("kaiming", 1)])
    assert again.waiting() and not factors(again, KEY)[0].any()
    again.put_back(0, {name: t.clone() for name, t in attached.kept(0).items()})
    state = attached.state_dict(0)
    assert {name.rpartition(".")[2] for name in state["frozen"]} == {"A0", "B0"}
    again.load_state_dict(0, state)
    held, i = again.slots(0)[KEY]
    assert torch.equal(held.delta.A0[i], factors(attached, KEY)[0]) and attached.state_dict(1) == {}


def _doubled(batches):
    return [{key: torch.cat([value, value]) for key, value in batch.items()} for batch in batches]


# --- PEFT


def theirs(**settings):
    """PEFT's configuration of the same LoRA."""
    peft = pytest.importorskip("peft")
    layers = r".*encoder.*(query|key|value|dense)"
    return peft, peft.LoraConfig(r=R, lora_alpha=ALPHA, target_modules=layers, **settings)


def test_corda_is_that_of_peft_on_one_sample(tiny_model, batches):
    """PEFT divides each sample by its own largest entry, which one sample does not show; in float32."""
    peft, config = theirs(init_lora_weights="corda")
    from peft.tuners.lora.corda import preprocess_corda

    config.corda_config = peft.tuners.lora.config.CordaConfig()
    model = tiny_model("bert").eval()
    batch = {key: value[:1] for key, value in batches[0].items()}
    preprocess_corda(model, config, run_model=lambda: model(**batch))
    module = peft.get_peft_model(model, config).base_model.model.get_submodule(KEY)
    attached = attach(tiny_model("bert"), [run("corda")])
    attached.model.eval()
    with attached.observing():
        attached.clock.mask = batch["attention_mask"]
        attached.model(**batch).logits.sum().backward()
    A, B = factors(attached, KEY)
    expected = module.lora_B["default"].weight @ module.lora_A["default"].weight
    assert_close(B @ A, expected, rtol=1e-3, atol=1e-3 * float(expected.detach().abs().max()))


def test_evas_directions_are_those_of_peft(tiny_model, batches):
    """PEFT's decomposition is incremental and random: the same space, not to the last digit."""
    peft, config = theirs(init_lora_weights="eva")
    config.eva_config = peft.EvaConfig(rho=1.0, tau=0.999)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(tiny_model("bert").eval(), config)
        peft.initialize_lora_eva_weights(model, [dict(batches[0])], show_progress_bar=False)
    attached = shown(tiny_model("bert"), [run("eva", init_batches=1)], batches[:1])
    for name in SIZES:
        V = model.base_model.model.get_submodule(name).lora_A["default"].weight.detach()
        A, _ = factors(attached, name)
        assert_close(torch.linalg.svdvals(A @ V.mT), torch.ones(R), rtol=1e-3, atol=1e-3)


def test_lora_gas_directions_are_those_of_peft(tiny_model, batches, seen):
    """The sizes differ, see the module: PEFT's B carries singular values, the authors' does not."""
    peft, config = theirs(init_lora_weights="lora_ga")
    from peft.tuners.lora.loraga import preprocess_loraga

    config.lora_ga_config = peft.LoraGAConfig()
    model = tiny_model("bert").eval()

    def train_step():
        for batch in batches:
            loss(model, batch).backward()

    preprocess_loraga(model, config, train_step)
    model = peft.get_peft_model(model, config)
    attached = shown(tiny_model("bert"), [run("lora_ga")], batches)
    for name in SIZES:
        module, (A, B) = model.base_model.model.get_submodule(name), factors(attached, name)
        A2, B2 = module.lora_A["default"].weight.detach(), module.lora_B["default"].weight.detach()
        unit = torch.nn.functional.normalize
        assert_close((unit(A) * unit(A2)).sum(1).abs(), torch.ones(R), rtol=1e-3, atol=1e-3)
        assert_close((unit(B, dim=0) * unit(B2, dim=0)).sum(0).abs(), torch.ones(R), rtol=1e-3, atol=1e-3)


# --- LoftQ


@pytest.mark.parametrize("delta", ["lora", "dora"])
@pytest.mark.parametrize(("kind", "block"), [("bert", ""), ("gpt2", "[q]")])
def test_loftq_starts_nearest_to_the_dense_weight(kind, block, delta, tiny_model):
    """Algorithm 1 with T = 1: no change of rank r is nearer, the error is the rest of the spectrum."""
    axes = {"delta": delta, "storage": "nf4", "init": "loftq"}
    run = RunConfig(0, r=R, alpha=ALPHA, targets="qv" if block else "all", axes=axes)
    attached = attach(tiny_model(kind), [run])
    assert not attached.waiting()
    dense = tiny_model(kind)
    for name, (held, i) in attached.slots(0).items():
        W = dense.get_submodule(name.partition("[")[0]).weight.detach().double()
        W = W.mT[held.part.block] if block else W
        Q = held.base.weight(torch.float64)
        start = held.delta.weight(held.base)[i].detach().double()
        assert_close(torch.linalg.svdvals(W - start)[: min(W.shape) - R], torch.linalg.svdvals(W - Q)[R:],
                     rtol=1e-3, atol=1e-6)  # fmt: skip
        assert (W - start).norm() < 0.95 * (W - Q).norm()
        if delta == "dora":
            assert_close(held.delta.factors(held.base).g, torch.ones(1, 1, len(W)))


def test_loftq_of_several_ranks_shares_one_base_with_plain_runs(tiny_model):
    axes = {"storage": "nf4"}
    runs = [
        RunConfig(k, r=2 + k, axes={**axes, "init": init})
        for k, init in enumerate(["loftq", "pissa", "loftq"])
    ]
    pack = attach(tiny_model("bert"), [*runs, RunConfig(9, axes=axes)])
    alone = attach(tiny_model("bert"), [runs[2]])
    for name, tensor in alone.tensors(0).items():
        assert_close(pack.tensors(2)[name], tensor)


def test_loftq_on_a_base_that_loses_nothing_is_refused(tiny_model):
    with pytest.raises(
        ValueError, match=r"init=loftq starts with what the storage loses of W, and at bert\.\S+ it loses "
        r"nothing: set variant\.storage=nf4 \(or fp4, int4, bf16\), or variant\.init=pissa",
    ):  # fmt: skip
        attach(tiny_model("bert"), [RunConfig(0, r=2, options={"init": "loftq"})])


def test_a_rank_that_has_no_room_for_two_sets_is_refused_before_the_start(tiny_model):
    with pytest.raises(
        ValueError, match=r"init=lora_ga takes 2 r = 14 .* 12 x 12 map, has 12: choose r <= 6"
    ):
        attach(tiny_model("bert"), [RunConfig(0, r=7, options={"init": "lora_ga"})])
