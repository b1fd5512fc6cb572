"""A delta of one's own, a file in another folder: it passes the contract unchanged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import variants
from variants import RunConfig, attach, merge, write_peft
from variants._core import costs, registry

OWN = Path(__file__).parent / "own"
NAME = "loha_like"


@pytest.fixture
def own(monkeypatch):
    """The folder of our own delta is searched, as with ABLORA_VARIANTS, until the test ends."""
    caches = (registry._sources, registry._index, registry._discover, costs._declaration)
    monkeypatch.setattr(variants, "__path__", [*variants.__path__, str(OWN)])
    for cache in caches:
        cache.cache_clear()
    yield
    registry._parts.pop(("delta", NAME), None)
    sys.modules.pop(f"variants.{NAME}", None)
    for cache in caches:
        cache.cache_clear()


def test_the_whole_contract_holds_for_it():
    tests = Path(__file__).with_name("test_contract.py")
    line = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-k", NAME, "-v", str(tests)]
    environment = {**os.environ, "ABLORA_VARIANTS": str(OWN)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count("PASSED") > 40


def test_without_shapes_it_is_counted_on_the_meta_device(own):
    assert costs.delta_sizes(NAME, 2, 7, 5) == {"in": 2 * 2 * 7, "out": 2 * 2 * 5}
    assert not any(costs.delta_sizes(NAME, 0, 7, 5).values())


def test_what_it_keeps_gives_the_same_model_and_peft_does_not_hold_it(own, tiny_model, tokens, tmp_path):
    run, ids = RunConfig(5, r=2, axes={"delta": NAME}), tokens()
    attached, again = attach(tiny_model("bert"), [run]), attach(tiny_model("bert"), [run])
    with torch.no_grad():
        for t in attached.trained:
            t.parameter += 0.3 * torch.randn(t.parameter.shape, generator=torch.Generator().manual_seed(7))
    again.put_back(0, {key: tensor.clone() for key, tensor in attached.kept(0).items()})
    expected = attached.model(input_ids=ids).logits
    assert torch.equal(again.model(input_ids=ids).logits, expected)
    assert_close(merge(attached, 0)(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="PEFT's form 'lora' does not hold what LoHaLike trains; export it"):
        write_peft(attached, 0, tmp_path / "adapter")


def test_two_files_of_one_name_are_refused(own, tmp_path, monkeypatch):
    (tmp_path / "lora.py").write_text('"""Another."""\n')
    monkeypatch.setattr(variants, "__path__", [*variants.__path__, str(tmp_path)])
    registry._sources.cache_clear()
    with pytest.raises(ValueError, match=r"lora\.py bears the name of .*lora\.py: give it another"):
        registry._sources()
