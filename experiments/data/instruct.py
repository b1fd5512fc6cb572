"""instruct: prompts and completions for a causal language model: dataset=instruct dataset.path=pairs.jsonl.

One JSON object per line, either of

    {"prompt": "...", "completion": "..."}
    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}

Prompt and completion are joined as they are, with a line break at the seam where neither has white space
there. Loss is taken on the completion, or on the last message, which has to be the assistant's; all before
it is the prompt. Messages go through the tokenizer's chat template, or, if it has none, are written as
"User: ..." and "Assistant: ..." on lines of their own. Other names for the two fields are guessed
(question, instruction; answer, response) or set by dataset.prompt and dataset.completion. An `input` beside
an `instruction` is added to it after an empty line. Examples that share a prompt fall into the same split.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.data import _files, _tables
from experiments.data._columns import choose
from experiments.data._tables import Table
from experiments.data._tasks import RawTask, Rows, Turn, canonical, carve, check_sizes, few
from experiments.errors import UserError

ENDINGS = (".jsonl", ".json", ".ndjson")


def source(options: Mapping[str, Any]) -> str:
    """The hash of the files and of what says how to read them."""
    return _files.content(_files.locate(options, dataset="instruct", endings=ENDINGS), options)


def read(options: Mapping[str, Any]) -> RawTask:
    """Read and check the conversations."""
    files = _files.locate(options, dataset="instruct", endings=ENDINGS)
    notes = [_files.used(files)]
    pools = {}
    for split, group in files.items():
        pools[split], said = _conversations(_tables.read_json(group), options, split=split)
        notes += [note for note in said if note not in notes]
    parts, carved = carve(pools, text=lambda turns: canonical(turns[:-1]), label=lambda turns: "")
    check_sizes(parts)
    splits = {split: Rows.conversations(part) for split, part in parts.items()}
    return RawTask("instruct", "completion", (), splits, (*notes, *carved, *few(parts)))


def _conversations(
    table: Table, options: Mapping[str, Any], *, split: str
) -> tuple[list[tuple[Turn, ...]], list[str]]:
    """The turns of each example of one split, and notes on what was guessed."""
    if "messages" in table and not (options.get("prompt") or options.get("completion")):
        examples = [
            _messages(cell, f"{split}, example {number}") for number, cell in enumerate(table["messages"], 1)
        ]
        return examples, []
    chosen, notes = choose(list(table), options, ("prompt", "completion"))
    prompts = table[chosen["prompt"]]
    if chosen["prompt"] == "instruction" and "input" in table:
        prompts = [
            f"{prompt}\n\n{more}" if more else prompt
            for prompt, more in zip(prompts, table["input"], strict=True)
        ]
        notes.append("input is added to the instruction after an empty line")
    pairs = list(zip(prompts, table[chosen["completion"]], strict=True))
    for number, pair in enumerate(pairs, 1):
        if not all(isinstance(text, str) and text.strip() for text in pair):
            raise UserError(
                f"{split}, example {number}: {chosen['prompt']} and {chosen['completion']} have to be texts, "
                f"but are {str(pair[0])[:40]!r} and {str(pair[1])[:40]!r}. Fill in or remove that line"
            )
    return [(("prompt", prompt), ("completion", completion)) for prompt, completion in pairs], notes


def _messages(cell: Any, where: str) -> tuple[Turn, ...]:
    """The turns of one chat."""
    if not isinstance(cell, Sequence) or not all(_is_message(message) for message in cell):
        raise UserError(
            f'{where}: messages has to be a list such as [{{"role": "user", "content": "..."}}, '
            f'{{"role": "assistant", "content": "..."}}] with texts as contents, but is {str(cell)[:80]!r}'
        )
    turns = tuple((message["role"], message["content"]) for message in cell)
    if len(turns) < 2 or turns[-1][0] != "assistant" or not turns[-1][1].strip():
        raise UserError(
            f"{where}: the last message is the one to be learned and has to be the assistant's, after at "
            f"least one other; the roles are {', '.join(role for role, _ in turns) or 'none'}. Remove what "
            "follows the assistant's last message"
        )
    return turns


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
    )
