"""AdaLoRA's budget, step for step: against a slow transcription of its equations, and against PEFT."""

import itertools
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from variants import AdaptedLinear, Clock, RunConfig, Slot, get
from variants._core.base import DenseBase


class Literal:
    """Algorithm 1 of the paper as the authors' code runs it: plain Python, one number at a time."""

    def __init__(self, triplets, *, total, warm_up, final, interval, beta1, beta2, first, last):
        self.triplets = triplets  # list of dicts with tensors P, L, Q of one layer
        self.total, self.t_i, self.t_f, self.interval = total, warm_up, final, interval
        self.beta1, self.beta2, self.first, self.last = beta1, beta2, first, last
        self.mean = [{n: torch.zeros_like(t[n]) for n in "PLQ"} for t in triplets]
        self.spread = [{n: torch.zeros_like(t[n]) for n in "PLQ"} for t in triplets]

    def budget(self, t):
        if t <= self.t_i:
            return self.first
        if t > self.total - self.t_f:
            return self.last
        left = 1 - (t - self.t_i) / (self.total - self.t_i - self.t_f)
        return int(self.last + (self.first - self.last) * left**3)

    def after_step(self, t, weights, gradients):
        """Masks in place; weights and gradients are lists of dicts as `triplets`."""
        if t < self.total - self.t_f:
            for mean, spread, w, g in zip(self.mean, self.spread, weights, gradients, strict=True):
                for n in "PLQ":
                    importance = (w[n] * g[n]).abs()
                    mean[n] = self.beta1 * mean[n] + (1 - self.beta1) * importance
                    spread[n] = self.beta2 * spread[n] + (1 - self.beta2) * (importance - mean[n]).abs()
        b = self.budget(t)
        final = t > self.total - self.t_f
        between = self.t_i < t and t % self.interval == 0
        if b == self.first or not (final or between):
            return b, None
        scores = []
        for layer, (mean, spread) in enumerate(zip(self.mean, self.spread, strict=True)):
            s = {n: mean[n] * spread[n] for n in "PLQ"}
            for i in range(len(s["L"])):
                of_p = sum(float(v) for v in s["P"][:, i]) / len(s["P"])
                of_q = sum(float(v) for v in s["Q"][i]) / s["Q"].shape[1]
                scores.append((float(s["L"][i]) + of_p + of_q, layer, i))
        threshold = sorted(score for score, *_ in scores)[self.first - b - 1]
        for score, layer, i in scores:
            if score <= threshold:
                weights[layer]["L"][i] = 0.0
        return b, threshold


@pytest.mark.parametrize(
    "options", [{"t_init": 0.1, "t_final": 0.3}, {"t_init": 3, "t_final": 10, "interval": 3}]
)
def test_budget_masks_and_scores_are_those_of_the_transcription(options, build, settings, triplets, train):
    attached = build([settings(40, **options)])
    budget = attached.controllers[0]
    oracle = Literal(
        triplets(attached), total=40, warm_up=budget.schedule.t_i, final=budget.schedule.t_f,
        interval=options.get("interval", 1), beta1=0.85, beta2=0.85, first=12, last=8,
    )  # fmt: skip
    masked = 0

    def each(step):
        nonlocal masked
        copies = [{n: t[n].clone() for n in "PLQ"} for t in triplets(attached)]
        grads = [
            {n: getattr(h.delta, n).grad[i].clone() for n in "PLQ"} for h, i in attached.slots(0).values()
        ]
        b, threshold = oracle.after_step(step, copies, grads)
        attached.after_step(step)
        assert attached.controllers[0].budget == b
        for ours, expected in zip(triplets(attached), copies, strict=True):
            assert_close(ours, expected, rtol=0, atol=0)
        alive = sum(int(t["L"].count_nonzero()) for t in triplets(attached))
        if threshold is not None:
            masked += 1
            assert alive == b

    train(attached, 40, each)
    assert masked > 10
    alive = sum(int(t["L"].count_nonzero()) for t in triplets(attached))
    assert attached.controllers[0].budget == alive == 8


def test_the_history_gets_budget_and_ranks_of_every_step(build, settings, triplets, train):
    attached = build([settings(40, t_init=4, t_final=15, interval=3)])
    names, expected, rows = list(attached.slots(0)), [], []

    def each(step):
        attached.after_step(step)
        expected.append([int(t["L"].count_nonzero()) for t in triplets(attached)])
        if step % 7 == 6:
            rows.extend(attached.step_log(0))

    train(attached, 40, each)
    rows.extend(attached.step_log(0))
    assert attached.step_log(0) == []
    standing, found = {}, []
    for row in rows:
        new = {key.removeprefix("rank/"): rank for key, rank in row.items() if key.startswith("rank/")}
        assert all(standing.get(name) != rank for name, rank in new.items())
        standing |= new
        found.append([standing[name] for name in names])
    assert found == expected and len({tuple(ranks) for ranks in found}) > 3
    assert [row["budget_realised"] for row in rows] == [sum(ranks) for ranks in expected]
    assert rows[0]["budget"] == 12 and rows[-1]["budget"] == rows[-1]["budget_realised"] == 8


def test_a_target_equal_to_the_start_never_masks(build, settings, train):
    attached = build([settings(20, init_r_ratio=1.0, t_init=2, t_final=5)])
    train(attached, 20)
    log = attached.step_log(0)[-1]
    assert (log["budget"], log["budget_realised"], log["reactivations"]) == (8, 8, 0)


@pytest.mark.parametrize(
    ("options", "alive", "warns"),
    [
        ({"t_final": 0, "interval": 7}, 12, True),
        ({"t_final": 1, "interval": 7}, 12, True),
        ({"t_final": 2, "interval": 7}, 8, False),
        ({"t_final": 0, "interval": 1}, 8, False),
    ],
)
def test_a_run_that_ends_without_its_last_mask_says_so(options, alive, warns, build, settings, train):
    """As in the authors' code only the final phase, after step T - t_final, masks at every step."""
    run = settings(40, t_init=4, **options)
    with (
        pytest.warns(UserWarning, match="more than 8 of 12 triplets may be left") if warns else nullcontext()
    ):
        get("controller", "adalora_budget")(run, build([run]).slots(0))
    attached = build([run])
    train(attached, 40)
    assert attached.step_log(0)[-1]["budget_realised"] == alive


def test_the_budget_refuses_another_delta():
    layer = AdaptedLinear(DenseBase(torch.randn(5, 7)), None, name="m", runs=1)
    layer.hold(
        slice(0, 1), None, get("delta", "lora")(layer.base, [Slot("m", 0, 2, 1.0)], clock=Clock()), layer.base
    )
    slots = {"m": (layer.held[0], 0)}
    with pytest.raises(ValueError, match=r"this run uses 'lora'\. Choose delta=adalora, or controller=none"):
        get("controller", "adalora_budget")(RunConfig(0, axes={"delta": "lora"}), slots)


def test_in_the_final_phase_the_same_triplets_stay_dead(build, settings, train):
    attached = build([settings(40, t_init=4, t_final=20)])
    patterns = []

    def each(step):
        attached.after_step(step)
        if step > 20:
            alive = {name: (held.delta.L[k] != 0).tolist() for name, (held, k) in attached.slots(0).items()}
            patterns.append(alive)

    train(attached, 40, each)
    assert all(p == patterns[0] for p in patterns)
    assert sum(map(sum, patterns[0].values())) == 8
    assert attached.summary(0)["rank_pattern"] == {name: sum(alive) for name, alive in patterns[0].items()}


def test_before_it_a_masked_triplet_can_come_back(build, settings, triplets, train):
    attached = build([settings(40, t_init=2, t_final=5)])
    seen = []

    def each(step):
        seen.append(torch.cat([t["L"] for t in triplets(attached)]) != 0)
        attached.after_step(step)
        seen.append(torch.cat([t["L"] for t in triplets(attached)]) != 0)

    train(attached, 30, each)
    died = [~after & before for before, after in zip(seen[::2], seen[1::2], strict=True)]
    returned = [dead & later for dead, later in zip(died, seen[2::2], strict=False)]
    assert any(r.any() for r in returned)
    after = seen[1::2]
    counted = sum(int((~off & on).sum()) for off, on in itertools.pairwise(after))
    assert attached.step_log(0)[-1]["reactivations"] == counted > 0


def test_several_runs_of_one_pack_are_pruned_each_by_its_own_scores(build, settings, triplets, train):
    runs = [
        settings(40, seed=0, t_init=4, t_final=20),
        settings(40, seed=1, r=3, t_init=2, t_final=10, orth_weight=0.3),
    ]
    pack = build(runs)
    train(pack, 40)
    assert [sum(pack.summary(k)["rank_pattern"].values()) for k in (0, 1)] == [8, 12]
    poisoned = build(runs)
    next(iter(poisoned.slots(1).values()))[0].delta.P.data.fill_(float("nan"))
    train(poisoned, 40)
    for a, b in zip(triplets(pack), triplets(poisoned), strict=True):
        assert all(torch.equal(a[n], b[n]) for n in "PLQ")


def test_a_resume_in_the_middle_goes_on_bit_for_bit(build, settings, triplets, train):
    whole = build([settings(40, t_init=4, t_final=15)])
    train(whole, 40)
    first = build([settings(40, t_init=4, t_final=15)])
    optimiser, source = train(first, 17)
    logged = first.step_log(0)
    state = {name: t.clone() for name, t in first.state_dict(0).items()}
    second = build([settings(40, t_init=4, t_final=15)], seed=0)
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(0, state)
    resumed = torch.optim.AdamW(second.model.parameters(), lr=3e-2, weight_decay=0.0)
    resumed.load_state_dict(optimiser.state_dict())
    train(second, 40, start=17, optimiser=resumed, source=source)
    for a, b in zip(triplets(whole), triplets(second), strict=True):
        assert all(torch.equal(a[n], b[n]) for n in "PLQ")
    assert whole.summary(0) == second.summary(0)
    assert whole.step_log(0) == logged + second.step_log(0)


def test_stopped_before_its_first_step_a_run_logs_what_it_would_have(build, settings, train):
    """The ranks of all modules stand in the first row, of those too that no gradient reached."""
    whole, second = (build([settings(40, t_init=4, t_final=15)]) for _ in range(2))
    second.load_state_dict(0, {name: t.clone() for name, t in second.state_dict(0).items()})
    for attached in (whole, second):
        attached.after_step(0)
    rows = whole.step_log(0)
    assert rows == second.step_log(0) and {f"rank/{name}" for name in whole.slots(0)} <= rows[0].keys()


def scores_of(literal):
    means = [{n: m[n] * u[n] for n in "PLQ"} for m, u in zip(literal.mean, literal.spread, strict=True)]
    return [s["L"] + s["P"].mean(0) + s["Q"].mean(1) for s in means]


def test_importance_takes_the_weight_after_the_step_and_algorithm_1_the_one_before(
    build, settings, triplets, train
):
    attached = build([settings(40, t_init=20, t_final=10)])
    schedule = {"total": 40, "warm_up": 20, "final": 10, "interval": 1, "first": 12, "last": 8}
    code, paper = (Literal(triplets(attached), beta1=0.85, beta2=0.85, **schedule) for _ in range(2))
    old = [{n: t[n].clone() for n in "PLQ"} for t in triplets(attached)]

    def each(step):
        new = [{n: t[n].clone() for n in "PLQ"} for t in triplets(attached)]
        slots = attached.slots(0).values()
        gradients = [{n: getattr(h.delta, n).grad[i].clone() for n in "PLQ"} for h, i in slots]
        code.after_step(step, new, gradients)
        paper.after_step(step, old, gradients)
        attached.after_step(step)
        old[:] = new

    train(attached, 6, each)
    importance = attached.controllers[0].importance
    names = [name for name, *_ in importance.members]
    ours = dict(zip(names, importance.scores().split(3), strict=True))
    for name, of_code, of_paper in zip(attached.slots(0), scores_of(code), scores_of(paper), strict=True):
        assert_close(ours[name], of_code, rtol=1e-9, atol=0)
        assert not torch.allclose(ours[name], of_paper, rtol=0.01, atol=0)


def test_the_allocator_of_peft_prunes_the_same(build, settings, triplets, train):
    peft = pytest.importorskip("peft")
    steps, t_i, t_f = 40, 4, 15
    attached = build([settings(steps, t_init=t_i, t_final=t_f, orth_weight=0.0)])
    layers = attached.layers.values()
    plain = [nn.Linear(layer.base.d_in, layer.base.d_out, bias=False).double() for layer in layers]
    for linear, layer in zip(plain, layers, strict=True):
        linear.weight.data.copy_(layer.base.weight())
    config = peft.AdaLoraConfig(
        init_r=3, target_r=2, lora_alpha=4.0 * (3 + 1e-5) / 3, tinit=t_i, tfinal=t_f, deltaT=1,
        total_step=steps, target_modules=[str(i) for i in range(len(plain))], orth_reg_weight=1e-9,
    )  # fmt: skip
    model = peft.get_peft_model(nn.Sequential(*plain), config).double()
    modules = [model.base_model.model[i] for i in range(len(plain))]
    for module, t in zip(modules, triplets(attached), strict=True):
        module.lora_A["default"].data.copy_(t["Q"])
        module.lora_B["default"].data.copy_(t["P"])
        module.lora_E["default"].data.copy_(t["L"][:, None])
    # PEFT would train its constant ranknum too
    trained = [p for name, p in model.named_parameters() if "lora_" in name]
    optimiser = torch.optim.AdamW(trained, lr=3e-2, weight_decay=0.0)
    source = torch.Generator().manual_seed(11)

    def each(step):
        """PEFT's step beside ours, then both compared."""
        loss = 0
        for layer, module in zip(layers, modules, strict=True):
            x = torch.randn(3, layer.base.d_in, generator=source, dtype=torch.float64)
            y = torch.randn(3, layer.base.d_out, generator=source, dtype=torch.float64)
            loss = loss + (module(x) - y).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        model.base_model.update_and_allocate(step)
        attached.after_step(step)
        for module, t in zip(modules, triplets(attached), strict=True):
            assert_close(module.lora_E["default"].data[:, 0], t["L"], rtol=1e-7, atol=1e-9)

    train(attached, steps - t_f, each)  # at the next step PEFT masks, the authors' code one later
    assert sum(int(t["L"].count_nonzero()) for t in triplets(attached)) < 12
