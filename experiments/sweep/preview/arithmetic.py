"""The cost of a run by arithmetic: operations, bytes in memory, bytes on the disk. Estimates, never promises.

N weights of linear maps and experts that a token passes, H those of a language model's head, P trained
adapter parameters, T tokens in a step, S tokens in a text, d the width, L layers

a step      T (4 (N + H) + 6 P + 12 S d L): forward, and backward through the inputs alone; 6 (N + H) where
            the base itself is trained, and one more forward pass, 2 (N + H), under checkpointing
a test      T (2 (N + H + P) + 4 S d L)
memory      the base as stored, 16 P for the trained parameters, their gradients and AdamW's averages,
            T (17 d L + heads S L) numbers of activations in a micro-step, or, if that is more,
            T (8 d + 2 heads S) in an evaluation, whose T is larger; the logits of a language model; the
            libraries on a CPU; W' of adapted experts
disk        4 P for the adapter, and what a record, its history and its predictions take
"""

from collections.abc import Sequence

from experiments.sizing.counts import STATE, Count, base_bytes
from experiments.sizing.skeleton import Skeleton
from experiments.spec import RunSpec
from experiments.sweep.preview.facts import Task
from variants._core.names import Target

CPU_SPEED = 30e9  # operations per second and core, float32
GPU_SPEED = 50e12
LIBRARIES = 500_000_000  # bytes of a process that has torch and transformers
LOGITS = 1 << 24  # of a language model, the most that an evaluation holds: `training.evaluate.LOGITS`
OVERHEAD = 1.0  # seconds of a run beside training and evaluation
_FILES = 18_000  # bytes of spec, record, log, signatures and the adapter's settings
_ROW, _CONTROLLED = 110, 190  # bytes of a row of the history, without and with a controller's columns
_PREDICTION = 30  # bytes of a row of the predictions


def step_flops(spec: RunSpec, skeleton: Skeleton, count: Count, length: int, *, causal: bool) -> float:
    """Operations of an optimiser step; 0 where nothing is trained."""
    passes = {"full": 6, "probe": 2, "zero": 0}.get(spec.method, 4)
    if not passes:
        return 0.0
    again = spec.train.gradient_checkpointing
    passes += 2 * again
    tokens = spec.train.batch_size * length
    attention = (4 if spec.method == "probe" else 12 + 4 * again) * length * skeleton.hidden * skeleton.layers
    extra = 6 * count.adapter if spec.method == "adapters" else 0
    return float(tokens * (passes * (_passed(skeleton) + _vocabulary(skeleton, causal)) + attention + extra))


def evaluation_flops(
    spec: RunSpec, skeleton: Skeleton, count: Count, task: Task, length: int, *, causal: bool
) -> float:
    """Operations of all passes over validation and of the one over the test split."""
    rows = spec.train.evaluations * task.validation + (task.test if spec.phase != "tune" else 0)
    extra = count.adapter if spec.method == "adapters" else 0
    weights = _passed(skeleton) + _vocabulary(skeleton, causal) + extra
    return float(rows * length * (2 * weights + 4 * length * skeleton.hidden * skeleton.layers))


def memory(
    spec: RunSpec, skeleton: Skeleton, count: Count, task: Task, length: int, *, accelerator: bool
) -> int:
    """Bytes at the peak of a run."""
    rows = spec.train.micro_batch_size or spec.train.batch_size
    wide = 2 if spec.train.precision == "bf16" else 4
    per_token = (17 * skeleton.hidden + skeleton.heads * length) * skeleton.layers * wide
    if spec.train.gradient_checkpointing:
        per_token = per_token // skeleton.layers + skeleton.hidden * skeleton.layers * wide
    scores = 3 * 4 * skeleton.vocab if not task.classes else 0
    most = min(spec.train.eval_batch_size, max(task.validation, task.test))
    evaluated = most * length * wide * (8 * skeleton.hidden + 2 * skeleton.heads * length)
    evaluated += 3 * 4 * LOGITS if not task.classes else 0
    state = (4 + STATE) * count.trained
    stored = base_bytes(spec, skeleton, task.classes)
    formed = 4 * sum(t.d_in * t.d_out for t in _adapted(spec, skeleton) if t.active)
    if spec.train.gradient_checkpointing:
        formed //= skeleton.layers
    work = formed + max(rows * length * (per_token + scores), evaluated)
    return stored + state + work + (0 if accelerator else LIBRARIES)


def disk(spec: RunSpec, count: Count | None, task: Task, steps: int) -> int:
    """Bytes of the run's folder once it has ended."""
    row = _ROW if spec.axes.get("controller") in (None, "none") else _CONTROLLED
    history = row * steps + _ROW * spec.train.evaluations
    tested = _PREDICTION * task.test if spec.phase != "tune" else 0
    return _FILES + history + tested + (4 * count.trained if count else 0)


def _passed(skeleton: Skeleton) -> int:
    return skeleton.linear + skeleton.experts


def _adapted(spec: RunSpec, skeleton: Skeleton) -> Sequence[Target]:
    return skeleton.matches(spec.targets or (), spec.options.get("layers"))


def _vocabulary(skeleton: Skeleton, causal: bool) -> int:
    return skeleton.hidden * skeleton.vocab if causal else 0
