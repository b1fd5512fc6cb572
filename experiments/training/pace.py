"""How long a training step takes here: what the size of packs is chosen by, and train.precision=auto.

    python -m experiments.training.pace      # reads a spec, prints the seconds of a step by precision

Nothing is written.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from experiments import tasks
from experiments.config.settings import total_steps
from experiments.spec import RunSpec, from_record
from experiments.training.execute import device, prepared
from experiments.training.loader import Loader
from experiments.training.loop import Trainer
from experiments.training.memory import release
from experiments.training.result import is_out_of_memory

STEPS = 2  # timed, after one that warms up
TURNS = 3  # the least time of so many counts


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


def trainer_of(specs: Sequence[RunSpec], load: Loader) -> Trainer:
    """A pack before its first step, as `execute` makes it, without anything on the disk."""
    attached, _, task = prepared(specs, load, device())
    return Trainer(specs, attached, task.splits["train"], tasks.kind_of(task.kind).loss)


def advance(trainer: Trainer, steps: int) -> None:
    """Train so many steps more, or to the end."""
    end = trainer.progress.step + steps
    trainer.run(should_stop=lambda: trainer.progress.step >= end)


def _step_seconds(specs: Sequence[RunSpec], load: Loader) -> float:
    trainer = trainer_of(specs, load)
    advance(trainer, 1)
    clock = _processor_seconds if trainer.device.type == "cpu" else time.perf_counter
    started, first = clock(), trainer.progress.step
    advance(trainer, STEPS)
    return (clock() - started) / max(1, trainer.progress.step - first)


def _processor_seconds() -> float:
    """Of this process, by thread."""
    return time.process_time() / torch.get_num_threads()


def precisions(spec: RunSpec) -> dict[str, float]:
    """Seconds of a step of a run in fp32 and in bf16, taken in turns; its storage follows if that is open."""
    specs = {}
    for precision in ("fp32", "bf16"):
        axes = {key: precision if value == "auto" else value for key, value in spec.axes.items()}
        specs[precision] = replace(spec, axes=axes, train=replace(spec.train, precision=precision))
    loaders = {precision: Loader() for precision in specs}
    turns = [{p: _step_seconds([one], loaders[p]) for p, one in specs.items()} for _ in range(TURNS)]
    return {precision: min(turn[precision] for turn in turns) for precision in specs}


if __name__ == "__main__":
    print(json.dumps(precisions(from_record(json.load(sys.stdin)))))
