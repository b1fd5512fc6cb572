"""How long a training step of a pack takes here: what the size of packs is chosen by. Nothing is written."""

import time
from collections.abc import Sequence

import torch

from experiments import models, tasks
from experiments.config.settings import total_steps
from experiments.spec import RunSpec
from experiments.training.execute import device
from experiments.training.loader import Loader
from experiments.training.loop import Trainer, run_config
from experiments.training.memory import release
from experiments.training.result import is_out_of_memory
from variants import attach

STEPS = 2  # timed, after one that warms up


def curve(
    specs: Sequence[RunSpec], sizes: Sequence[int], load: Loader, *, runs: int, worth: float
) -> dict[int, float]:
    """Seconds of a step by the number of runs in the pack, as far as it is worth knowing.

    On a CPU seconds of the processor: other work on the machine, which would pass for a slow size, hardly
    changes them.

    It ends where memory runs out, where another run makes the step so much longer that nothing is gained, and
    at one run if all `runs` alone would take less than `worth` seconds.

    Args:
        specs: Runs that may share a pack, at least as many as the largest size.
        sizes: Ascending, the first is 1.
        load: Where bases and data come from.
        runs: How many runs there are to train.
        worth: See above.
    """
    found: dict[int, float] = {}
    for size in sizes:
        try:
            found[size] = _step_seconds(specs[:size], load)
        except Exception as error:
            if size == 1 or not (is_out_of_memory(error) or isinstance(error, ValueError)):
                raise
            break  # no room for so many, or a layer that no pack can share
        finally:
            release()
        steps = total_steps(specs[0].train, len(load(specs[0])[2].splits["train"].ids))
        if size == 1 and found[1] * steps * runs < worth:
            break
        if found[size] / size > 1.2 * min(seconds / n for n, seconds in found.items()):
            break
    return found


def _step_seconds(specs: Sequence[RunSpec], load: Loader) -> float:
    model, info, task = load(specs[0])
    steps = [total_steps(s.train, task.rows["train"]) for s in specs]
    configs = [run_config(s, steps=n) for s, n in zip(specs, steps, strict=True)]
    attached = attach(models.clone(model), configs, device=device(), fresh=info.fresh)
    if specs[0].train.gradient_checkpointing:
        attached.model.gradient_checkpointing_enable({"use_reentrant": False})
    trainer = Trainer(specs, attached, task.splits["train"], tasks.kind_of(task.kind).loss)
    trainer.run(should_stop=lambda: trainer.progress.step >= 1)
    clock = _processor_seconds if trainer.device.type == "cpu" else time.perf_counter
    started, first = clock(), trainer.progress.step
    trainer.run(should_stop=lambda: trainer.progress.step >= first + STEPS)
    return (clock() - started) / max(1, trainer.progress.step - first)


def _processor_seconds() -> float:
    """Of this process, by thread."""
    return time.process_time() / torch.get_num_threads()
