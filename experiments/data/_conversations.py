"""From rows of a table to conversations: prompts and completions, or chats. Training and predict share it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.data._columns import choose, first_of
from experiments.data._reading import Table
from experiments.data._tasks import Conversation, Turn
from experiments.errors import UserError

_CHATS = ("messages", "conversations", "conversation")  # fields that hold a chat
_ROLES = {"human": "user", "gpt": "assistant"}  # in files that say `from` and `value`
_READ = ("role", "content", "from", "value")  # of a message
_CALLS = ("tool_calls", "function_call", "tool_call_id", "tools", "functions", "reasoning_content")
_SHAPE = (
    'a list such as [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}] with texts '
    "as contents"
)


def examples(table: Table, options: Mapping[str, Any], *, split: str) -> tuple[list[Conversation], list[str]]:
    """The conversation of every row of one split, its last turn the one to be learned; and notes."""
    chat = _chat(table, options)
    if chat:
        found = [_learned(_turns(cell, where), where, options) for where, cell in _places(table, chat, split)]
        return found, _unused(table, (chat,), _fields(table.columns[chat]))
    chosen, notes = choose(table.columns, options, ("prompt", "completion"), named=table.named)
    (name,) = chosen["completion"]
    prompts, used = _prompts(table, chosen["prompt"], split)
    if len(used) > len(chosen["prompt"]):
        notes.append("input is added to the instruction after an empty line")
    found = []
    for prompt, (where, cell) in zip(prompts, _places(table, name, split), strict=True):
        if isinstance(prompt, list) and isinstance(cell, list):  # both are parts of a chat
            found.append(_learned(_turns([*prompt, *cell], where), where, options))
            continue
        completion = _written(cell)
        if not all(isinstance(text, str) and text.strip() for text in (prompt, completion)):
            raise UserError(
                f"{where}: {', '.join(used)} and {name} have to be texts, but are {str(prompt)[:40]!r} and "
                f"{str(cell)[:40]!r}. Fill in or remove that line"
            )
        found.append((*asked(str(prompt), options), (_answer(options), str(completion))))
    return found, notes + _unused(table, (*used, name), set())


def open_ended(
    table: Table, options: Mapping[str, Any], *, key: str
) -> tuple[list[Conversation], tuple[str, ...]]:
    """The conversation of every row without the turn to be written, () where there is none; their columns."""
    chat = _chat(table, options)
    if chat:
        return [_open(_turns(cell, where), options) for where, cell in _places(table, chat, "input")], (chat,)
    chosen = first_of(table.columns, options, ("prompt", "completion"), named=table.named, key=key)
    prompts, used = _prompts(table, chosen, "input")
    return [
        _open(_turns(prompt, f"input, example {number}"), options)
        if isinstance(prompt, list)
        else asked(prompt, options)
        if prompt.strip()
        else ()
        for number, prompt in enumerate(prompts, 1)
    ], used


def asked(prompt: str, options: Mapping[str, Any]) -> Conversation:
    """A prompt as the turns before the one to be written: plain text, or with dataset.chat=true a chat."""
    return (("user" if options.get("chat") else "prompt", prompt),)


def _answer(options: Mapping[str, Any]) -> str:
    return "assistant" if options.get("chat") else "completion"


def _chat(table: Table, options: Mapping[str, Any]) -> str | None:
    """The field of chats, unless others were asked for."""
    chat = next((name for name in _CHATS if name in table.columns), None)
    if chat is None or options.get("prompt") or options.get("completion"):
        return None
    for name in _CALLS:
        if any(table.columns.get(name, ())):
            raise UserError(
                f"the field {name} beside {chat} would be left out of what is learned: calls of tools "
                "are not read. Leave those examples out, or write the calls into the texts"
            )
    return chat


def _places(table: Table, name: str, split: str) -> list[tuple[str, Any]]:
    return [(f"{split}, example {number}", cell) for number, cell in enumerate(table.columns[name], 1)]


def _prompts(table: Table, names: tuple[str, ...], split: str) -> tuple[list[Any], tuple[str, ...]]:
    """The prompt of every row: a text, or a list of messages; and the columns that it was made of."""
    columns = [[_written(cell) for cell in table.columns[name]] for name in names]
    if len(columns) > 1:
        return ["\n".join(map(str, cells)) for cells in zip(*columns, strict=True)], names
    (prompts,) = columns
    if names != ("instruction",) or "input" not in table.columns:
        return prompts, names
    more = map(_written, table.columns["input"])
    return [f"{p}\n\n{m}" if m else p for p, m in zip(prompts, more, strict=True)], (*names, "input")


def _written(cell: Any) -> Any:
    """A cell as it is written: numbers and truth values as JSON has them, "" for none; others as they are."""
    if cell is None:
        return ""
    if isinstance(cell, str | list | dict):
        return cell
    return json.dumps(cell) if isinstance(cell, bool | int | float) else str(cell)


def _turns(cell: Any, where: str) -> Conversation:
    """The turns of a chat; anything in it that would not be learned is refused."""
    if not isinstance(cell, Sequence) or isinstance(cell, str):
        raise UserError(f"{where}: messages has to be {_SHAPE}, but is {str(cell)[:80]!r}")
    return tuple(_turn(message, where) for message in cell)


def _turn(message: Any, where: str) -> Turn:
    fields = message if isinstance(message, dict) else {}
    for name in _CALLS:
        if fields.get(name):
            raise UserError(
                f"{where}: a message has {name}, which would be left out of what is learned: calls of tools "
                "and hidden reasoning are not read. Leave that example out, or write it into the content"
            )
    role = fields.get("role", _ROLES.get(fields.get("from", ""), fields.get("from")))
    content = fields.get("content", fields.get("value"))
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" for part in content
    ):
        content = "".join(str(part.get("text") or "") for part in content)
    if not isinstance(role, str) or not isinstance(content, str):
        raise UserError(f"{where}: messages has to be {_SHAPE}, but holds {str(message)[:80]!r}")
    return role, content


def _learned(turns: Conversation, where: str, options: Mapping[str, Any]) -> Conversation:
    if len(turns) < 2 or turns[-1][0] != "assistant" or not turns[-1][1].strip():
        raise UserError(
            f"{where}: the last message is the one to be learned and has to be the assistant's, after at "
            f"least one other; the roles are {', '.join(role for role, _ in turns) or 'none'}. Remove what "
            "follows the assistant's last message"
        )
    if options.get("chat") is False:
        return (("prompt", _lines(turns[:-1])), ("completion", turns[-1][1]))
    return turns


def _open(turns: Conversation, options: Mapping[str, Any]) -> Conversation:
    """A chat without its last answer, which is the one to be written."""
    before = turns[:-1] if turns and turns[-1][0] == "assistant" else turns
    if not before or not before[-1][1].strip():
        return ()
    return (("prompt", _lines(before)),) if options.get("chat") is False else before


def _lines(turns: Conversation) -> str:
    """Turns as lines of text, and the line after which the answer begins."""
    return "".join(f"{role.capitalize()}: {text}\n" for role, text in turns) + "Assistant:\n"


def _fields(chats: Sequence[Any]) -> set[str]:
    """The fields of messages that say something and are not read."""
    return {
        f"{name} of messages"
        for chat in chats
        for message in chat
        for name, value in message.items()
        if name not in _READ and value not in (None, "", [], {})
    }


def _unused(table: Table, used: Sequence[str], others: set[str]) -> list[str]:
    unused = [name for name in table.columns if name not in used] + sorted(others)
    return [f"fields that are not used: {', '.join(unused[:8])}"] if unused else []
