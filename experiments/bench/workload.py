"""What is measured on: a frozen classification model, a batch, and the arithmetic of the products."""

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments import models
from experiments.artifacts import named_base
from experiments.config.groups import CONF, Conf
from experiments.errors import UserError
from experiments.training.batch import Batch, of_tokens
from experiments.training.loop import autocast

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CONF = Conf(CONF)
CLASSES = 13

# Llama's shape with random weights: hidden, inner, layers, heads, key-value heads, vocabulary
SHAPES = {
    "tiny": (128, 352, 6, 4, 2, 4096),
    "0.1b": (576, 1536, 30, 9, 3, 49152),
    "0.5b": (896, 4864, 24, 14, 2, 151936),
    "1.5b": (1536, 8960, 28, 12, 2, 151936),
    "3b": (3072, 8192, 28, 24, 8, 128256),
    "8b": (4096, 14336, 32, 32, 8, 128256),
}
GPU_ONLY = ("1.5b", "3b", "8b")


@dataclass(frozen=True)
class Workload:
    """One model and one batch; every contender gets the same."""

    name: str
    model: nn.Module
    batch: Batch
    precision: str  # fp32 or bf16 (autocast)
    storage: str  # how the frozen weights are kept where a contender does not say otherwise

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.batch.input_ids.device

    @property
    def tokens(self) -> int:
        """Tokens of a step, padding included."""
        return self.batch.input_ids.numel()

    def copy(self) -> nn.Module:
        """The model to be changed in structure; its tensors are shared and stay as they are."""
        return models.clone(self.model)

    def logits(self, model: nn.Module) -> Tensor:
        """One forward pass."""
        with autocast(self.precision, self.device):
            return model(input_ids=self.batch.input_ids, attention_mask=self.batch.attention_mask).logits

    @property
    def task(self) -> str:
        """What PEFT calls it."""
        return "CAUSAL_LM" if of_tokens(self.batch.labels) else "SEQ_CLS"

    def loss(self, model: nn.Module) -> Tensor:
        """One forward pass, and the mean cross entropy: of classes, or of each next token."""
        logits, labels = self.logits(model).float(), self.batch.labels
        if of_tokens(labels):
            logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        return F.cross_entropy(logits, labels)


def workload(options: argparse.Namespace) -> Workload:
    """The workload that the words of a command ask for, on the GPU where there is one."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_room(options.shape, device)
    if options.shape == "minilm":
        model, *_ = models.load(named_base("minilm"), kind="classification", n_labels=CLASSES)
        model.to(device)
    else:
        wide = torch.bfloat16 if options.precision == "bf16" else torch.float32
        model = random_llama(*SHAPES[options.shape], dtype=wide, device=device)
    batch = random_batch(options.batch, options.length, min(20_000, model.config.vocab_size)).to(device)
    storage = "fp32" if next(model.parameters()).dtype == torch.float32 else "bf16"
    return Workload(options.shape, model, batch, options.precision, storage)


def check_room(shape: str, device: torch.device) -> None:
    """UserError for a shape that only a GPU can train, where there is none."""
    if device.type == "cpu" and shape in GPU_ONLY:
        raise UserError(f"--shape {shape} needs a GPU, and there is none here: take 0.5b or a smaller one")


def random_llama(
    hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocabulary: int, *,
    dtype: torch.dtype, device: torch.device, causal: bool = False,
) -> "PreTrainedModel":  # fmt: skip
    """A frozen Llama of this shape with random weights and a classification head, or one that writes."""
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=vocabulary, num_labels=CLASSES, pad_token_id=0,
        use_cache=False, dtype=dtype, tie_word_embeddings=causal,
    )  # fmt: skip
    with torch.random.fork_rng(), device:
        torch.manual_seed(0)
        kind = LlamaForCausalLM if causal else LlamaForSequenceClassification
        model = kind(config).to(dtype)
    return model.requires_grad_(False).eval()


def random_batch(rows: int, length: int, vocabulary: int) -> Batch:
    """Texts of 40 to 100% of the length, filled up."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(min(1000, vocabulary // 2), vocabulary, (rows, length), generator=draw)
    lengths = torch.randint(max(1, length * 2 // 5), length + 1, (rows, 1), generator=draw)
    mask = (torch.arange(length)[None] < lengths).long()
    return Batch(ids, mask, torch.randint(0, CLASSES, (rows,), generator=draw))


def variant_options(name: str) -> dict[str, Any]:
    """The options of a variant, as its yaml has them."""
    return _CONF.read("variant", name)


def dataset_options(name: str) -> dict[str, Any]:
    """The options of a dataset, as its yaml has them."""
    return {key: value for key, value in _CONF.read("dataset", name).items() if key != "ranges"}
