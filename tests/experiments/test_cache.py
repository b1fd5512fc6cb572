"""Tensors come back from the cache as they were, or not at all."""

import pytest
import torch

from experiments import cache


@pytest.fixture
def filed(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLORA_CACHE", str(tmp_path))
    tensors = {"U": torch.randn(5, 3, dtype=torch.float64).mT, "S": torch.arange(3.0)}
    cache.store_tensors("svd", "key", tensors)
    return tensors


def test_tensors_come_back_to_the_bit(filed):
    found = cache.recall_tensors("svd", "key")
    assert found.keys() == filed.keys() and all(torch.equal(found[n], t) for n, t in filed.items())
    assert cache.recall_tensors("svd", "other") is None


@pytest.mark.parametrize("length", [0, 31, 40, -1])
def test_what_is_damaged_does_not_come_back(filed, length):
    path = cache.entry("svd", "key")
    path.write_bytes(path.read_bytes()[:length])
    assert cache.recall_tensors("svd", "key") is None
