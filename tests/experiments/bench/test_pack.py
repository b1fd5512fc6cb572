"""The figures of a pack's step: the arithmetic that they are held against, and what they compare."""

import pytest
import torch

from experiments.bench import pack, workload
from experiments.bench.pack import Setting, decoder, measure, operations, packed
from experiments.bench.table import Figure
from experiments.bench.turns import Spread


@pytest.fixture
def setting(monkeypatch):
    monkeypatch.setitem(workload.SHAPES, "tiny", (24, 40, 2, 4, 2, 101))
    return Setting("tiny", ["lora", "dora"], 3, "all", 2, 7, "fp32")


def test_the_arithmetic_is_that_of_the_frozen_maps_and_the_head(setting):
    model = decoder(setting, torch.device("cpu"))
    block = 24 * 24 * 2 + 24 * 12 * 2 + 3 * 24 * 40  # q and o, k and v, the MLP
    assert operations(setting, model) == 4 * (2 * block + 101 * 24) * 2 * 7


def test_a_pack_trains_its_runs_and_each_step_is_one(setting):
    model = decoder(setting, torch.device("cpu"))
    contender = packed(setting, model, 3)
    before = [p.detach().clone() for p in contender.model.parameters() if p.requires_grad]
    contender.step()
    after = [p.detach() for p in contender.model.parameters() if p.requires_grad]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(not p.requires_grad for p in model.parameters())


def test_a_pack_is_held_against_the_sum_of_its_runs(setting, monkeypatch):
    taken = {"peft lora": [2.0, 4.0, 3.0], "peft dora": [5.0, 5.0, 5.0], "pack 1": [1.0] * 3}
    taken["pack 3"] = [6.0, 6.0, 6.0]
    monkeypatch.setattr(pack, "in_turn", lambda contenders, rounds: {n: taken[n] for n in contenders})
    figures = measure(setting, [1, 3], rounds=3, rate=1e12)
    by_name = {(f.variant, f.what): f for f in figures}
    three = by_name["3 runs", "step / PEFT's, one by one"]
    assert three.against.median == 3.0 + 5.0 + 3.0 and three.target is None  # lora, dora, lora; no GPU
    assert three.ratio.median == pytest.approx(6 / 11)
    least = 1000 * operations(setting, decoder(setting, torch.device("cpu"))) / 1e12
    assert by_name["3 runs", "limit / step"].ratio.median == pytest.approx(3 * least / 6)
    memory = by_name["3 runs", "memory of another run"]
    lora = 3 * (2 * (2 * 24 + 2 * 24 + 2 * (24 + 12) + 3 * (24 + 40)))  # r (d_in + d_out) of two blocks
    assert memory.ours.median * 1e6 > 3 * 4 * lora  # at least the values and the two moments
    assert ("1 runs", "memory of another run") not in by_name


@pytest.mark.parametrize("value, verdict", [(0.4, "met"), (0.3, "MISSED")])
def test_a_share_has_a_least_value(value, verdict):
    one = Spread.exact(1.0)
    assert Figure("x", "", "", "", one, one, Spread.exact(value), 0.35, at_least=True).verdict == verdict
