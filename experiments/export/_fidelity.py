"""How far an export is from the run's own model: logits of both on the same texts, in float32."""

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from experiments import data
from experiments.artifacts import Base, Source
from experiments.errors import UserError
from experiments.training.batch import gather
from variants import generator

TEXTS, TOKENS = 8, 16  # of the comparison; tokens of each where no text is at hand
EXACT = 1e-5  # in float32 an export differs by rounding alone
WRONG = 1e-2  # where it should be exact, this is another model


@dataclass(frozen=True)
class Inputs:
    """What is compared on."""

    ids: Tensor  # (n, T)
    mask: Tensor  # (n, T)
    what: str


@dataclass
class Reference:
    """The run's own model on the inputs, and all that was compared with it."""

    base: Base
    source: Source
    inputs: Inputs
    storage_options: Mapping[str, Any]
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    entries: list[dict[str, Any]] = field(default_factory=list)

    @torch.no_grad()
    def of(self, model: Any) -> Tensor:
        """Logits of a model, in float32 on the CPU: (n, classes), or (real tokens, vocabulary)."""
        device, inputs = self.base.device, self.inputs
        model.eval()
        logits = model(input_ids=inputs.ids.to(device), attention_mask=inputs.mask.to(device)).logits
        logits = logits.float().cpu()
        if logits.dim() == 3:  # PEFT gives the positions of a prompt as well
            logits = logits[:, -inputs.ids.shape[1] :]
        return logits if logits.dim() == 2 else logits[inputs.mask.bool()]

    def compare(self, what: str, model: Any, *, exact: bool = True, **facts: Any) -> None:
        """Note how far a model is.

        Args:
            what: The model, for people.
            model: It answers in float32.
            exact: Whether it should differ by rounding of float32 alone; if it is far off, that is an error.
            facts: More to say about it.
        """
        found = self.of(model)
        difference = float((found - self.logits).abs().max() / self.logits.abs().max())
        same = int((found.argmax(-1) == self.logits.argmax(-1)).sum())
        self.entries.append(
            {
                "model": what,
                "max_relative_difference": difference,
                "same_predictions": f"{same} of {len(found)}",
                **facts,
            }
        )
        if exact and not difference < WRONG:
            raise UserError(
                f"{what} does not say what {self.source.name} says: its logits differ by {difference:.1e} "
                f"where at most {EXACT:g} was expected. Nothing was written"
            )

    def skip(self, what: str, why: str) -> None:
        """Note that a model could not be compared."""
        self.entries.append({"model": what, "skipped": why})

    def report(self) -> dict[str, Any]:
        """What fidelity.json holds."""
        storage = "" if self.source.storage == "fp32" else f" kept in {self.source.storage}"
        return {
            "reference": f"{self.source.name} on {self.source.base_name}{storage}, unmerged",
            "inputs": self.inputs.what,
            "n": len(self.inputs.ids),
            "measure": "max |logits - reference| / max |reference|, over all inputs",
            "dtype": "float32",
            "compared": self.entries,
        }


def inputs(source: Source, base: Base) -> Inputs:
    """Some validation texts of the run's dataset, or random tokens where they are not at hand."""
    if source.spec is None:
        return _random(base, "the dataset of an adapter from elsewhere is not known")
    try:
        raw = data.read(source.spec)
    except UserError as error:
        return _random(base, str(error).split(". ")[0])
    validation = data.encode(raw, base.tokenizer, source.max_length).splits["validation"]
    rows = torch.arange(min(TEXTS, len(validation.ids)))
    longest = int(validation.attention_mask[rows].sum(1).max())
    batch = gather(validation, rows, longest)
    return Inputs(batch.input_ids, batch.attention_mask, f"{len(rows)} validation texts of {raw.name}")


def _random(base: Base, why: str) -> Inputs:
    config = base.model.config
    ids = torch.randint(config.vocab_size, (TEXTS, TOKENS), generator=generator(0, "fidelity"))
    special = {config.pad_token_id, getattr(config, "eos_token_id", None)} - {None}
    plain = next(token for token in range(config.vocab_size) if token not in special)
    for token in special:  # some models read meaning into them
        ids[ids == token] = plain
    if isinstance(eos := getattr(config, "eos_token_id", None), int):
        ids[:, -1] = eos
    return Inputs(ids, torch.ones_like(ids), f"random tokens ({why})")


def installed(package: str) -> Any | None:
    """An optional package, or None where it is not installed."""
    return importlib.import_module(package) if importlib.util.find_spec(package) else None
