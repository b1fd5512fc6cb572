"""What the papers' figures need of a run, as small arrays in its folder: signatures.npz.

    gradient/steps (G,)   gradient/<role> (G,)              norms of the gradient before clipping     (rslora)
    moved/steps (T,)   moved/names (M,)   moved/magnitude, moved/direction (T, M)      at validations (dora)
    change/names, change/rank (M,)  change/sigma (M, S)  change/norm, change/base_norm (M,)           (lora)
    change/projected, change/random (M,)   change/top (M,), absent if W is too large for its spectrum (lora)
    vectors/names (V,)  vectors/<i>/change, vectors/<i>/A (d_in, k)  vectors/<i>/base (top of W, k)   (lora)
    storage/weights, storage/codes, storage/scales, storage/rest ()                                  (qlora)
    storage/formats (F,)  storage/names (M,)  storage/error (F, M)                                     (qlora)

Names are those of the layers. A run of a large model is looked at in a sample of its matrices, spread evenly
over the layers; which ones is a function of the names alone. What AdaLoRA's figures need is in the record and
the history.
"""

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.files import replacing
from experiments.training.diagnostics import dora, lora, qlora
from experiments.training.loop import Callback, Trainer
from experiments.training.result import Seconds
from experiments.training.run_state import Interrupted, Run
from variants import Attached


class Signatures(Callback):
    """Notes gradients at the first step and before validations, and how weights moved by each validation.

    What was noted so far is in `Run.signatures`, which checkpoints keep.
    """

    def __init__(self, runs: Sequence[Run], trainer: Trainer, seconds: Seconds):
        self._trainer, self._seconds = trainer, seconds
        trains = bool(trainer.attached.trained)
        self._runs = [(k, run) for k, run in enumerate(runs) if run.spec.signatures and trains]

    def on_gradient(self, step: int) -> None:
        """Gradient norms by role."""
        due = [(k, run) for k, run in self._runs if step == 0 or step + 1 in self._trainer.due[k]]
        if due:
            with self._seconds.of("signatures"):
                norms = self._trainer.optimiser.role_norms()
                for k, run in due:
                    _append(run.signatures, "gradient", step + 1, {r: n[k] for r, n in norms.items()})

    def on_validation(self, step: int) -> None:
        """How magnitude and direction moved."""
        validated = self._trainer.validated(step)
        with self._seconds.of("signatures"):
            for k, run in self._runs:
                if k in validated:
                    _append(run.signatures, "moved", step, dora.moved(self._trainer.attached, k))


def _append(noted: dict[str, Tensor], group: str, step: int, values: Mapping[str, Tensor]) -> None:
    """A row more of each array of a group."""
    for name, value in {"steps": torch.tensor(step), **values}.items():
        row = value.detach().cpu()[None]
        before = noted.get(f"{group}/{name}")
        noted[f"{group}/{name}"] = row if before is None else torch.cat([before, row])


def write(runs: Sequence[Run], trainer: Trainer, seconds: Seconds) -> dict[int, str]:
    """Write signatures.npz of each run of a pack that was trained to its end.

    Args:
        runs: The pack; a run whose spec has `signatures` off, or that diverged, leaves none, and one that had
            its record already has its own.
        trainer: What trained it.
        seconds: Where the time is counted.

    Returns:
        What could not be made, by the number of the run: no failure here is one of a run that was trained.
    """
    wanted = [
        k
        for k, run in enumerate(runs)
        if run.spec.signatures and not run.ended and trainer.diverged_at[k] is None
    ]
    notes: dict[int, str] = {}
    if not wanted or not trainer.attached.trained:
        return notes
    storage: dict[str, Any] = {}
    with seconds.of("signatures"):
        with _noted(
            notes, {k: runs[k] for k in wanted}, "signatures.npz lacks the errors of the 4-bit formats"
        ):
            storage = qlora.arrays(trainer.attached, runs[wanted[0]].spec)
        for k in wanted:
            with _noted(notes, {k: runs[k]}, "signatures.npz was not made"):
                _write(runs[k], k, trainer.attached, storage)
    return notes


def _write(run: Run, k: int, attached: Attached, storage: dict[str, Any]) -> None:
    found: dict[str, Any] = {name: value.numpy() for name, value in run.signatures.items()}
    if "moved/magnitude" in found:
        found["moved/names"] = np.array(dora.names(attached, k))
    found |= lora.arrays(attached, k, seed=run.spec.seed) | storage
    with replacing(run.folder.signatures, check=run.check_owned) as temporary, open(temporary, "wb") as file:
        np.savez(file, **found)


@contextmanager
def _noted(notes: dict[int, str], runs: Mapping[int, Run], what: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into a note for these runs, with the traceback in their logs."""
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        for k, run in runs.items():
            notes[k] = f"{what}: {error or type(error).__name__}"
            run.log(f"{notes[k]}\n{traceback.format_exc()}")
