"""AdaLoRA's schedule where paper, authors' code and PEFT differ: each transcribed, ours is the code's.

Zhang et al. 2023, arXiv:2303.10512. The importance is in test_budget.py, the penalty in test_delta.py.
"""

import pytest
import torch
from torch import nn

from variants import get
from variants.adalora import Schedule

QA = {"first": 216, "last": 144, "t_i": 800, "t_f": 3500, "T": 6700}  # a schedule of the paper's size


# --- eq. 14: the budget


def printed(t, *, first, last, t_i, t_f, T):
    """As the paper prints it, with t_f in the numerator as well."""
    if t < t_i:
        return first
    if t >= T - t_f:
        return last
    return last + (first - last) * (1 - (t - t_i - t_f) / (T - t_i - t_f)) ** 3


def authors(t, *, first, last, t_i, t_f, T):
    """As the authors' code computes it."""
    if t <= t_i:
        return first
    if t > T - t_f:
        return last
    return int(last + (first - last) * (1 - (t - t_i) / (T - t_f - t_i)) ** 3)


def test_the_budget_is_the_codes_for_the_printed_one_rises_above_the_start():
    schedule = Schedule(interval=1, **QA)
    assert printed(800, **QA) == pytest.approx(1213.7, abs=0.1)
    assert printed(3199, **QA) == pytest.approx(367.4, abs=0.2)  # and falls from there to 144 at once
    between = range(801, 3200)
    assert all(printed(t, **QA) > QA["first"] >= schedule.planned(t) for t in between)
    assert [schedule.planned(t) for t in range(6700)] == [authors(t, **QA) for t in range(6700)]


# --- the final phase


def masks_of_the_authors(t, *, T, t_i, t_f, interval):
    """Whether the authors' code masks after step t."""
    if t <= t_i:
        return False
    return True if t > T - t_f else t % interval == 0


def masks_of_peft(t, *, T, t_i, t_f, interval):
    """PEFT masks by force at T - t_f itself, keeps that pattern, and applies it from there on."""
    return True if t == T - t_f else masks_of_the_authors(t, T=T, t_i=t_i, t_f=t_f, interval=interval)


AT = {"T": 40, "t_i": 3, "t_f": 10, "interval": 7}


def test_the_final_phase_begins_one_step_after_pefts():
    schedule = Schedule(first=12, last=8, **AT)
    ours = [t for t in range(40) if schedule.masks(t)]
    assert ours == [t for t in range(40) if masks_of_the_authors(t, **AT)]
    assert {t for t in range(40) if masks_of_peft(t, **AT)} - set(ours) == {30}


def test_peft_masks_when_its_transcription_says():
    peft = pytest.importorskip("peft")
    plain = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 9), nn.Linear(9, 7), nn.Linear(7, 5))
    config = peft.AdaLoraConfig(
        init_r=3, target_r=2, tinit=3, tfinal=10, deltaT=7, total_step=40,
        target_modules=["0", "1", "2", "3"],
    )  # fmt: skip
    model = peft.get_peft_model(plain, config)
    adapted = [p for name, p in model.named_parameters() if "lora_" in name]
    values = [p for name, p in model.named_parameters() if "lora_E" in name]
    draw, masked = torch.Generator().manual_seed(0), []
    for t in range(40):
        with torch.no_grad():
            for p in values:
                p.fill_(1.0)
        for p in adapted:
            p.grad = torch.randn(p.shape, generator=draw)
        model.base_model.update_and_allocate(t)
        if any((p == 0).any() for p in values):
            masked.append(t)
    assert masked == [t for t in range(40) if masks_of_peft(t, **AT)]


# --- as a run asks for it


def test_the_schedule_starts_at_the_first_budget_ends_at_the_last_and_only_falls(build, settings):
    budget = build([settings(100, t_init=12, t_final=52)]).controllers[0].schedule
    plan = [budget.planned(t) for t in range(100)]
    assert plan[:13] == [12] * 13 and plan[48:] == [8] * 52
    assert plan == sorted(plan, reverse=True)
    assert budget.planned(30) == int(8 + 4 * (1 - 18 / 36) ** 3)


def test_fractions_and_steps_mean_the_same_schedule(build, settings):
    one, two = (
        build([settings(40, **o)]).controllers[0].schedule
        for o in ({"t_init": 0.1, "t_final": 0.5}, {"t_init": 4, "t_final": 20})
    )
    assert [one.planned(t) for t in range(40)] == [two.planned(t) for t in range(40)]


def test_no_warm_up_warns_and_an_impossible_schedule_is_refused(build, settings):
    run = settings(20, t_init=0, t_final=5)
    with pytest.warns(UserWarning, match="t_init is 0"):
        get("controller", "adalora_budget")(run, build([run]).slots(0))
    with pytest.raises(ValueError, match="no step to prune in: t_init is 10 and t_final 10 of 20 steps"):
        build([settings(20, t_init=10, t_final=10)])


def test_shares_of_the_run_are_not_cut_short_by_rounding(build, settings):
    schedules = [build([settings(100, t_init=x, t_final=0.3)]).controllers[0].schedule for x in (0.57, 0.29)]
    assert [s.t_i for s in schedules] == [57, 29]  # 0.57 * 100 is 56.99999999999999 in floating point
