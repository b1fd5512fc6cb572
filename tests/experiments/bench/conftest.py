"""A workload that takes milliseconds: a Llama of two blocks, four short texts."""

import pytest
import torch

from experiments.bench.workload import Workload, random_batch, random_llama


@pytest.fixture
def work():
    model = random_llama(24, 40, 2, 4, 2, 101, dtype=torch.float32, device=torch.device("cpu"))
    return Workload("tiny", model, random_batch(4, 7, 101), "fp32", "fp32")
