"""The command; the harness is loaded once the study is known to have runs for it."""

import argparse
import importlib.util
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import experiments.lm_eval
from experiments.artifacts import Source, open_run
from experiments.errors import UserError, report_errors
from experiments.predict import BATCH
from experiments.record import FINISHED, no_runs, read, run_folders


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m experiments.lm_eval",
        description=experiments.lm_eval.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("study", type=Path, help="the folder that holds the runs, e.g. runs/demo")
    made.add_argument("--tasks", required=True, help="names of the harness's tasks, separated by commas")
    made.add_argument("--include", type=Path, help="a folder with yamls of other tasks")
    made.add_argument("--limit", type=int, help="at most so many examples of each task")
    made.add_argument("--fewshot", type=int, help="examples in the prompt (default: the task's)")
    made.add_argument("--chat", action="store_true", help="use the model's chat template")
    made.add_argument(
        "--batch-size", type=int, default=BATCH, help="requests of each run in a forward pass (%(default)s)"
    )
    made.add_argument(
        "--model", help="where the runs' base is now, if it was moved: a file of conf/model, a folder, a name"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer; the exit code."""
    options = parser().parse_args(arguments)
    return report_errors(lambda: _answer(options))


def _answer(options: argparse.Namespace) -> None:
    tasks = [name for name in options.tasks.split(",") if name]
    if not tasks:
        raise UserError("--tasks names no task: give for example --tasks arc_easy,gsm8k")
    for name, least in (("limit", 1), ("fewshot", 0), ("batch_size", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: expected {least} or more")
    if options.include and not options.include.is_dir():
        raise UserError(
            f"--include {options.include}: there is no such folder. It should hold yamls of tasks"
        )
    groups = sources_of(options.study, options.model)
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("lm-evaluation-harness is not installed: pip install 'ablora[lm-eval]'")
    logging.getLogger("lm_eval").setLevel(logging.WARNING)

    from experiments.lm_eval.harness import ask

    for line in ask(
        groups.values(),
        tasks,
        size=options.batch_size,
        include=options.include,
        limit=options.limit,
        num_fewshot=options.fewshot,
        apply_chat_template=options.chat,
    ):
        print(line)


def sources_of(study: Path, model: str | None = None) -> dict[Any, list[Source]]:
    """The finished language models of a study, by the base and task that they share; UserError for none.

    `model` says where their base is now, as `artifacts.open_run` takes it.
    """
    if not any(run_folders(study)):
        raise no_runs(study)
    groups: dict[Any, list[Source]] = {}
    for folder in run_folders(study):
        record = read(folder.path)
        if record is None or record["status"] not in FINISHED[:1] or record.get("phase") == "tune":
            continue
        source = open_run(folder.path, model=model)
        if source.kind == "causal":
            groups.setdefault((source.base_name, source.base_sha256, source.task), []).append(source)
    if not groups:
        raise UserError(
            f"{study} holds no completed run of a language model, which the harness needs. Train one first, "
            "for example with dataset=docstrings model=smollm2_q4"
        )
    return groups


if __name__ == "__main__":
    sys.exit(main())
