"""From columns to examples, for each kind of task: which roles a table's columns play."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from experiments.data._classification import by_value
from experiments.data._tasks import RawTask, Rows, canonical, carve, check_sizes, few
from experiments.errors import UserError, did_you_mean

Row = Mapping[str, Any]
Example = dict[str, Any]  # the columns of `Rows` for one example


def build(
    splits: Mapping[str, Mapping[str, list[Any]]], options: Mapping[str, Any], notes: list[str]
) -> RawTask:
    """The task in the columns of each split."""
    kind = options.get("kind") or "classification"
    if kind not in _KINDS:
        raise UserError(
            f"dataset.kind={kind} is no kind of task for a table.{did_you_mean(str(kind), _KINDS)} "
            f"Known: {', '.join(_KINDS)}"
        )
    pools, dropped = {}, 0
    for split, columns in splits.items():
        rows = list(_joined(_rows(columns), options))
        examples = [_KINDS[kind](row, options) for row in rows]
        pools[split] = [example for example in examples if example is not None]
        dropped += len(rows) - len(pools[split])
    if dropped:
        notes.append(f"{dropped} rows without a text, a label or an answer were left out")
    labels = _classes(pools, options) if kind in ("classification", "multilabel") else ()
    if options.get("test"):  # what else would be the test part is learned
        pools["test"] = []
    parts, carved = carve(pools, text=_input, label=lambda e: str(e["labels"]) if labels else "")
    check_sizes({**parts, "test": parts["test"] or parts["validation"]})
    parts = {split: part for split, part in parts.items() if part}
    if options.get("group"):
        parts = {s: part if s == "train" else _grouped(part) for s, part in parts.items()}
    made = {split: Rows.of(**_as_columns(part)) for split, part in parts.items()}
    return RawTask(
        str(options["name"]),
        str(kind),
        labels,
        made,
        (*notes, *carved, *few({**parts, "test": parts.get("test", parts["validation"])})),
    )


def _rows(columns: Mapping[str, list[Any]]) -> Iterator[Row]:
    names = list(columns)
    return (dict(zip(names, cells, strict=True)) for cells in zip(*columns.values(), strict=True))


def _joined(rows: Iterator[Row], options: Mapping[str, Any]) -> Iterator[Row]:
    """Lines joined to documents, each beginning at a line that matches `document`."""
    pattern, column = options.get("document"), str(options.get("text") or "text")
    if not pattern:
        yield from rows
        return
    begins = re.compile(pattern)
    lines: list[str] = []
    for row in rows:
        if begins.match(row[column]) and lines:
            yield {column: "".join(lines)}
            lines = []
        lines.append(row[column])
    yield {column: "".join(lines)}


def _cell(row: Row, options: Mapping[str, Any], role: str, default: str | None = None) -> Any:
    """What a role's column or template gives for a row; None where the options name none."""
    given = options.get(role) or default
    if given is None:
        return None
    if "{" in given:
        try:
            return given.format_map({name: _spelled(cell) for name, cell in row.items()})
        except (KeyError, IndexError) as error:
            raise UserError(_unknown(role, str(error).strip("'"), row)) from error
    if given not in row:
        raise UserError(_unknown(role, given, row))
    return row[given]


def _spelled(cell: Any, between: str = " | ") -> Any:
    """A cell as a template takes it: lists of triples as "a : b : c | d : e : f"."""
    return between.join(str(_spelled(one, " : ")) for one in cell) if isinstance(cell, list) else cell


def _unknown(role: str, name: str, row: Row) -> str:
    return (
        f"dataset.{role}: there is no column {name!r}.{did_you_mean(name, row)} There are: {', '.join(row)}. "
        f"Give dataset.{role}=<column>, or a template such as '{{{next(iter(row))}}}'"
    )


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value).strip()


def _text_and(row: Row, options: Mapping[str, Any]) -> Example | None:
    """The text, or the pair, of a row."""
    example = {"texts": _text(_cell(row, options, "text", "text"))}
    if options.get("second"):
        example["seconds"] = _text(_cell(row, options, "second"))
    return example if all(example.values()) else None


def _classified(row: Row, options: Mapping[str, Any]) -> Example | None:
    label, example = _cell(row, options, "label", "label"), _text_and(row, options)
    unlabelled = label is None or label == "" or label in (-1, "-1", "-")
    return None if example is None or unlabelled else {**example, "labels": label}


def _multilabelled(row: Row, options: Mapping[str, Any]) -> Example | None:
    label, example = _cell(row, options, "label", "labels"), _text_and(row, options)
    if isinstance(label, str):
        label = [part.strip() for part in label.split(",") if part.strip()]
    return None if example is None or label is None else {**example, "labels": list(label)}


def _valued(row: Row, options: Mapping[str, Any]) -> Example | None:
    value, example = _cell(row, options, "label", "label"), _text_and(row, options)
    if example is None or value in (None, ""):
        return None
    try:
        return {**example, "labels": float(value)}
    except (TypeError, ValueError) as error:
        raise UserError(f"dataset.label holds {str(value)[:40]!r}, and regression needs numbers") from error


def _completed(row: Row, options: Mapping[str, Any]) -> Example | None:
    if options.get("messages"):
        turns = tuple((m["role"], m["content"]) for m in _cell(row, options, "messages"))
        last = max((i for i, (role, _) in enumerate(turns) if role == "assistant"), default=0)
        return {"turns": turns[: last + 1]} if last and turns[last][1].strip() else None
    prompt, completion = (str(_cell(row, options, role, role) or "") for role in ("prompt", "completion"))
    roles = ("user", "assistant") if options.get("chat") else ("prompt", "completion")
    if not prompt.strip() or not completion.strip():
        return None
    return {"turns": ((roles[0], prompt), (roles[1], completion))}


def _chosen(row: Row, options: Mapping[str, Any]) -> Example | None:
    """Options are a column of lists, or several columns, templates or fixed texts."""
    given = options.get("choices") or "choices"
    if isinstance(given, str):
        cell = _cell(row, options, "choices", "choices")
        names = [str(n) for n in cell.get("label", [])] if isinstance(cell, Mapping) else []
        texts = [str(text) for text in (cell["text"] if isinstance(cell, Mapping) else cell)]
    else:
        names = []
        texts = [str(one.format_map(row)) if "{" in one else str(row.get(one, one)) for one in given]
    label = _cell(row, options, "label", "label")
    if label in (None, "", -1):
        return None
    right = _option(label, texts, names, int(options.get("first_option") or 0))
    prompt, lead = str(_cell(row, options, "prompt", "question")), str(options.get("lead") or " ")
    role = "user" if options.get("chat") else "prompt"
    texts = [text if options.get("chat") else lead + text for text in texts]
    return {"turns": ((role, prompt),), "options": tuple(texts), "labels": right}


def _option(label: Any, texts: Sequence[str], names: Sequence[str], first: int) -> int:
    """The number of the right option: as a name, a number, a letter, or the option itself."""
    spelled = str(label).strip()
    if spelled in names:
        return list(names).index(spelled)
    if isinstance(label, bool | int) or spelled.isdigit():
        number = int(label) - first
    elif len(spelled) == 1 and spelled.isalpha():
        number = ord(spelled.upper()) - ord("A")
    else:
        number = list(texts).index(spelled) if spelled in texts else -1
    if not 0 <= number < len(texts):
        raise UserError(f"the right option is given as {spelled!r}, and the options are {', '.join(texts)}")
    return number


def _plain(row: Row, options: Mapping[str, Any]) -> Example | None:
    text = str(_cell(row, options, "text", "text") or "")
    return {"texts": text} if text.strip() else None


_KINDS: dict[str, Callable[[Row, Mapping[str, Any]], Example | None]] = {
    "classification": _classified,
    "multilabel": _multilabelled,
    "regression": _valued,
    "completion": _completed,
    "choice": _chosen,
    "language_modeling": _plain,
}


def _input(example: Example) -> str:
    """What decides an example's split: what is asked, not the answer."""
    turns = example.get("turns")
    if turns is not None:
        return canonical(turns if "options" in example else turns[:-1])
    return canonical([example["texts"], example["seconds"]]) if "seconds" in example else example["texts"]


def _classes(pools: Mapping[str, list[Example]], options: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes, in order; each example's label becomes its number."""
    known = [str(name) for name in options.get("classes") or ()]

    def name(label: Any) -> str:
        spelled = str(int(label)) if isinstance(label, bool | float) and label == int(label) else str(label)
        return known[int(spelled)] if known and spelled not in known and spelled.isdigit() else spelled

    many = any(isinstance(e["labels"], list) for part in pools.values() for e in part)
    for part in pools.values():
        for example in part:
            label = example["labels"]
            example["labels"] = [name(one) for one in label] if many else name(label)
    taught = {one for e in pools["train"] for one in (e["labels"] if many else [e["labels"]])}
    labels = tuple(known) or tuple(sorted(taught, key=by_value))
    number = {label: index for index, label in enumerate(labels)}
    for split, part in pools.items():
        for example in part:
            own = example["labels"] if many else [example["labels"]]
            if strange := [one for one in own if one not in number]:
                raise UserError(
                    f"{split} has the class {strange[0]!r}, which is none of {', '.join(labels[:10])}. Is "
                    f"{options.get('label') or 'label'} the right column (dataset.label)?"
                )
            example["labels"] = sorted(number[one] for one in own) if many else number[own[0]]
    return labels


def _grouped(part: Sequence[Example]) -> list[Example]:
    """One example per prompt, with all answers as its references; the first in order is the completion."""
    together: dict[str, list[Example]] = {}
    for example in part:
        together.setdefault(_input(example), []).append(example)
    return [
        {**group[0], "references": list(dict.fromkeys(e["turns"][-1][1].strip() for e in group))}
        for group in together.values()
    ]


def _as_columns(part: Sequence[Example]) -> dict[str, list[Any]]:
    return {name: [example[name] for example in part] for name in part[0]}
