"""instruct: prompts and completions for a causal language model: dataset=instruct dataset.path=pairs.jsonl.

One JSON object per line, either of

    {"prompt": "...", "completion": "..."}
    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}

or a table (CSV, TSV, Parquet) with these columns. Prompt and completion are joined as they are, with a line
break at the seam where neither has white space there. Loss is taken on the completion, or on the last
message, which has to be the assistant's; all before it is the prompt. Messages go through the tokenizer's
chat template, or, if it has none, are written as "User: ..." and "Assistant: ..." on lines of their own.
dataset.chat=true makes a chat of prompt and completion, dataset.chat=false plain lines of a chat. Other names
for the two fields are guessed (question, instruction; answer, response) or set by dataset.prompt and
dataset.completion. An `input` beside an `instruction` is added to it after an empty line. Examples that share
a prompt fall into the same split.
"""

from collections.abc import Mapping
from typing import Any

from experiments.data import _conversations, _files, _reading
from experiments.data._tasks import RawTask, Rows, canonical, carve, check_sizes, few

ENDINGS = (*_reading.OBJECTS, *_reading.TABLES)


def source(options: Mapping[str, Any]) -> str:
    """The hash of the files and of what says how to read them."""
    return _files.content(_files.locate(options, dataset="instruct", endings=ENDINGS), options)


def read(options: Mapping[str, Any]) -> RawTask:
    """Read and check the conversations."""
    located = _files.locate(options, dataset="instruct", endings=ENDINGS)
    notes = _files.used(located)
    pools = {}
    for split, files in located.splits.items():
        table = _reading.read(files, options)
        pools[split], said = _conversations.examples(table, options, split=split)
        notes += [note for note in (*table.notes, *said) if note not in notes]
    parts, carved = carve(pools, text=lambda turns: canonical(turns[:-1]), label=lambda turns: "")
    check_sizes(parts)
    splits = {split: Rows.conversations(part) for split, part in parts.items()}
    return RawTask("instruct", "completion", (), splits, (*notes, *carved, *few(parts)))
