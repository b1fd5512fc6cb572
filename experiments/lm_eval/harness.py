"""A pack of runs as the model that the harness asks, and what it scores into their records."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval import evaluator
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from experiments.artifacts import Source
from experiments.data import Encoded
from experiments.errors import UserError, did_you_mean
from experiments.files import replacing
from experiments.predict import Predictor
from experiments.record import RunFolder, read
from experiments.tasks import kind_of
from experiments.tasks._base import IGNORE
from experiments.training.evaluate import forward
from experiments.training.generation import Settings, generate, left_padded

VERSION = "0.4.13"
LONGEST = 2048  # tokens, of a model whose positions have no end
ANSWER = 256  # tokens of an answer where the task does not say
_PROBE = "The capital of France is Paris, and"

Pair = tuple[tuple[int, ...], tuple[int, ...]]  # context, continuation


class Pack:
    """Runs that answer together, and what they have answered."""

    def __init__(self, predictor: Predictor, names: Sequence[str], size: int) -> None:
        """Put the runs on their base and check that each changes what it says.

        Args:
            predictor: Holds the base.
            names: The runs.
            size: Requests of each run in a forward pass.
        """
        self.names, self.size = tuple(names), size
        self.sources = [predictor.sources[name] for name in names]
        self.tokenizer, self.model = predictor.base.tokenizer, predictor.model(names)
        self.limit = min(predictor.base.info.max_length or LONGEST, self.tokenizer.model_max_length)
        self._scored: dict[Pair, list[tuple[float, bool]]] = {}
        self._written: dict[tuple[str, str], list[str]] = {}
        self._check_adapted(predictor)

    @torch.no_grad()
    def _check_adapted(self, predictor: Predictor) -> None:
        """Refuse a run that says exactly what its base says: its adapter is not there."""
        ids = torch.tensor([self.encode(_PROBE)], device=predictor.base.device)
        base = predictor.base.stored(self.sources[0], self.sources[0].storage_options).eval()
        plain = base(input_ids=ids).logits
        adapted = self.model(input_ids=ids.repeat(len(self.names), 1)).logits
        for source, logits in zip(self.sources, adapted, strict=True):
            learned = source.spec is None or source.spec.method != "zero"
            if learned and torch.equal(logits, plain[0]):
                raise UserError(
                    f"{source.name} gives exactly the logits of its base, so what it learned is not in them. "
                    f"Make it again: python -m experiments.sweep retry {source.path.parent} {source.name}"
                )

    def encode(self, text: str) -> list[int]:
        """Token ids, with the special tokens that the tokenizer itself begins a text with."""
        start = self.tokenizer.bos_token
        special = not (start and text.startswith(start))  # as the harness does
        return list(self.tokenizer.encode(text, add_special_tokens=special))

    def score(self, pairs: Sequence[Pair]) -> list[list[tuple[float, bool]]]:
        """Of each pair and run: the log-likelihood of the continuation, and whether it is the greedy one."""
        new = list(dict.fromkeys(pair for pair in pairs if pair not in self._scored))
        if new:
            rows = [(*context, *wanted)[-self.limit :] for context, wanted in new]
            ids, mask = (part.flip(1) for part in left_padded([row[::-1] for row in rows], 0))
            labels = torch.full_like(ids, IGNORE)
            for number, (row, (_, wanted)) in enumerate(zip(rows, new, strict=True)):
                first = max(1, len(row) - len(wanted))
                labels[number, first : len(row)] = torch.tensor(row[first:])
            contexts = {context: number for number, (context, _) in enumerate(new)}  # read once each
            same = {"example": [contexts[context] for context, _ in new]}
            encoded = Encoded(tuple(map(str, range(len(new)))), ids, mask, labels, 0, meta=same)
            found = forward(
                self.model,
                kind_of("completion"),
                encoded,
                runs=len(self.names),
                precision=self.sources[0].precision,
                batch_size=self.size * len(self.names),
            )
            for number, pair in enumerate(new):
                self._scored[pair] = [
                    (-float(o.total[number]), bool(o.predicted[number] == 1)) for o in found
                ]
        return [self._scored[pair] for pair in pairs]

    def write(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[list[str]]:
        """Of each request (context, how to write) and each run: what it writes, up to the first stop text."""
        keys = [(context, json.dumps(how, sort_keys=True)) for context, how in requests]
        groups: dict[str, list[str]] = {}
        for context, how in dict.fromkeys(key for key in keys if key not in self._written):
            groups.setdefault(how, []).append(context)
        for how, contexts in groups.items():
            settings = _settings(json.loads(how))
            room = self.limit - settings.max_new_tokens
            if room < 1:
                raise UserError(
                    f"a task asks for {settings.max_new_tokens} new tokens, and the model takes {self.limit} "
                    "in all. Choose another task or model"
                )
            prompts = [self.encode(context)[-room:] for context in contexts]
            answers = generate(
                self.model,
                prompts,
                self.tokenizer,
                settings,
                runs=len(self.names),
                precision=self.sources[0].precision,
                size=self.size,
            )
            for context, *texts in zip(contexts, *answers, strict=True):
                self._written[context, how] = texts
        return [self._written[key] for key in keys]


def _settings(how: Mapping[str, Any]) -> Settings:
    """How the harness wants an answer, in our terms."""
    asked = normalize_gen_kwargs(dict(how), ANSWER)
    if asked["do_sample"]:
        raise UserError(
            f"a task samples its answers ({dict(how)}), and answers are written greedily here, so that the "
            "same run gives the same score. Override it in the task's yaml: do_sample: false"
        )
    stop = tuple(text for text in asked["until"] if text)
    return Settings(max_new_tokens=asked["max_gen_toks"], stop=stop)


class Run(TemplateLM):
    """One run of a pack, as the harness knows a model."""

    def __init__(self, pack: Pack, number: int) -> None:
        super().__init__()
        self.pack, self.number, self.tokenizer = pack, number, pack.tokenizer

    @property
    def eot_token_id(self) -> int:
        """The end of a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context."""
        start = self.tokenizer.bos_token_id
        return self.eot_token_id if start is None else int(start)

    @property
    def tokenizer_name(self) -> str:
        """For the harness's own caches."""
        return str(self.tokenizer.name_or_path)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids."""
        if add_special_tokens is None:
            return self.pack.encode(string)
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        pairs = [(tuple(context), tuple(wanted)) for _, context, wanted in requests]
        return [answers[self.number] for answers in self.pack.score(pairs)]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, in windows as long as the model takes."""
        windows: list[Pair] = []
        counts = []
        for request in requests:
            (text,) = request.args
            cut = get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, max_seq_len=self.pack.limit - 1, context_len=1
            )
            own = [(tuple(a), tuple(b)) for a, b in map(make_disjoint_window, cut)]
            windows += own
            counts.append(len(own))
        found = iter(answers[self.number][0] for answers in self.pack.score(windows))
        return [sum(next(found) for _ in range(count)) for count in counts]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers."""
        return [answers[self.number] for answers in self.pack.write([r.args for r in requests])]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as the model's template writes it."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )


def ask(
    groups: Iterable[Sequence[Source]],
    tasks: Sequence[str],
    *,
    size: int,
    include: Path | None,
    **options: Any,
) -> list[str]:
    """Let runs answer tasks of the harness, and put what it scores into their folders.

    Args:
        groups: Runs that share a base and a task, for each base.
        tasks: Names that the harness knows, or that stand in yamls of `include`.
        size: Requests of each run in a forward pass.
        include: A folder with yamls of tasks.
        options: Of `lm_eval.simple_evaluate`.

    Returns:
        A line per run and task.
    """
    manager = TaskManager(include_path=str(include) if include else None)
    for name in tasks:
        if name not in manager.all_tasks:
            near = did_you_mean(name, manager.all_tasks)
            raise UserError(
                f"--tasks: lm-eval {VERSION} knows no task {name!r}.{near} --include adds a folder"
            )
    lines = []
    for sources in groups:
        predictor = Predictor(sources)
        for names in predictor.packs():
            pack = Pack(predictor, names, size)
            for number, name in enumerate(pack.names):
                found = evaluator.simple_evaluate(
                    Run(pack, number),
                    tasks=list(tasks),
                    task_manager=manager,
                    bootstrap_iters=0,
                    log_samples=True,
                    **options,
                )
                values = keep(RunFolder(pack.sources[number].path), found)
                lines += [f"{name}  {metric} {value:.4f}" for metric, value in values.items()]
    return lines


def keep(folder: RunFolder, found: Mapping[str, Any]) -> dict[str, float]:
    """Write what the harness found for a run into its folder and its record: the new metrics by name."""
    record = read(folder.path)
    assert record is not None
    metrics: dict[str, float] = {}
    facts = dict(record.get("lm_eval") or {})
    for task, values in found["results"].items():
        own = {
            f"lm_eval/{task}/{key.removesuffix(',none')}": float(value)
            for key, value in values.items()
            if "," in key and "_stderr" not in key and isinstance(value, int | float)
        }
        better = (found.get("higher_is_better") or {}).get(task) or {}
        metrics |= own
        facts[task] = {
            "harness": VERSION,
            "version": str((found.get("versions") or {}).get(task)),
            "fewshot": (found.get("n-shot") or {}).get(task),
            "examples": (found.get("n-samples") or {}).get(task, {}).get("effective"),
            "goals": {
                name: "min" if better.get(name.rsplit("/", 1)[1].partition(",")[0]) is False else "max"
                for name in own
            },
        }
        if samples := (found.get("samples") or {}).get(task):
            _write_samples(folder.path / "lm_eval" / f"{task}.parquet", samples)
    folder.write_record({**record, "metrics": {**record["metrics"], **metrics}, "lm_eval": facts})
    return metrics


def _write_samples(path: Path, samples: Sequence[Mapping[str, Any]]) -> None:
    """A row per example: its id, what was answered, and its part in each metric."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: dict[str, dict[str, Any]] = {}
    for sample in samples:
        row = rows.setdefault(str(sample["doc_id"]), {"id": str(sample["doc_id"])})
        of = "" if sample["filter"] == "none" else f",{sample['filter']}"
        row[f"answer{of}"] = json.dumps(sample["filtered_resps"], ensure_ascii=False)
        row |= {f"{metric}{of}": _number(sample[metric]) for metric in sample["metrics"]}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    table = pa.table({name: pa.array([row.get(name) for row in rows.values()]) for name in names})
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def _number(value: Any) -> Any:
    """A score as a number, or as the numbers that a corpus metric is made of; text where it is neither."""
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, tuple | list) and all(isinstance(part, int | float) for part in value):
        return [float(part) for part in value]
    return json.dumps(value, ensure_ascii=False, default=str)
