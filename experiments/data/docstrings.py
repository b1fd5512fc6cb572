"""docstrings: from the source of a function, the first sentence of its docstring.

Real text that every machine with these packages already has: functions and methods of the installed scipy and
numpy and of Python's standard library. Sources are parsed with `ast`, never imported; a function is shown
without its docstring and its comments, as `ast.unparse` writes it.

    form=completion   write the sentence after the source; loss, or a metric of answers
    form=choice       which of four sentences belongs to it, by likelihood; the others are of other functions
                      of the same split, chosen by a hash

Left out are tests, private names, functions of more than `longest` characters or less than three lines, and
sentences of less than four words or that only say they are deprecated or like another.
"""

import ast
import importlib.metadata
import platform
import re
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.data._tasks import RawTask, Rows, carve, check_sizes, digest
from experiments.data.scipy_topics import package_folder
from experiments.errors import UserError

PACKAGES = ("scipy", "numpy")
FORMS = ("completion", "choice")
OPTIONS = 4

_ASIDE = {
    "tests", "test", "_lib", "idlelib", "lib2to3", "site-packages", "turtledemo", "ensurepip", "distutils",
}  # fmt: skip
_END = re.compile(r"(?<=[a-z)`'\"\]])(?<!e\.g)(?<!i\.e)(?<!\bvs)(?<!\bcf)\.(?:\s|$)")
_DULL = re.compile(r"(?i)deprecated|same as|see |wrapper|this (?:method|function) is|\bTODO\b")


def source(options: Mapping[str, Any]) -> str:
    """The versions of what is read."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    return ", ".join([f"python {platform.python_version()}", *versions])


def read(options: Mapping[str, Any]) -> RawTask:
    """Collect functions and their sentences, and split them by a hash of the source."""
    form = options.get("form") or "completion"
    if form not in FORMS:
        raise UserError(f"dataset.form={form} is neither {' nor '.join(FORMS)}")
    longest = int(options.get("longest") or 600)
    found: dict[str, str] = {}
    for path in _files():
        for code, sentence in _functions(path, longest):
            found.setdefault(code, sentence)
    once: dict[str, str] = {}  # a sentence that many functions share would be known by heart
    for code, sentence in found.items():
        once.setdefault(sentence, code)
    examples = [(code, sentence) for sentence, code in once.items()]
    parts, carved = carve({"train": examples}, text=lambda e: e[0], label=lambda e: "")
    check_sizes(parts)
    splits = {split: _made(part, form) for split, part in parts.items()}
    return RawTask("docstrings", form, (), splits, (f"read {source(options)}", *carved))


def _made(part: list[tuple[str, str]], form: str) -> Rows:
    ordered = sorted(part, key=lambda example: digest(example[0]))
    prompts = [f'{code}\n\n"""' for code, _ in ordered]
    if form == "completion":
        turns = [(("prompt", p), ("completion", s)) for p, (_, s) in zip(prompts, ordered, strict=True)]
        return Rows.of(turns=turns)
    options, labels = [], []
    for number, (code, sentence) in enumerate(ordered):
        others = [ordered[(number + 1 + i) % len(ordered)][1] for i in range(OPTIONS - 1)]
        right = int(digest(code)[:8], 16) % OPTIONS
        options.append((*others[:right], sentence, *others[right:]))
        labels.append(right)
    return Rows.of(turns=[(("prompt", p),) for p in prompts], options=options, labels=labels)


def _files() -> Iterator[Path]:
    """Every source file of the packages and of the standard library, in the order of their names."""
    roots = [Path(sysconfig.get_path("stdlib"))]
    roots += (package_folder(package, "docstrings") for package in PACKAGES)
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            if not _ASIDE & set(path.relative_to(root).parts):
                yield path


def _functions(path: Path, longest: int) -> Iterator[tuple[str, str]]:
    """(source, sentence) of the public functions of a file."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # templates and samples of broken code
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        docstring = ast.get_docstring(node)
        sentence = first_sentence(docstring) if docstring else ""
        if len(sentence.split()) < 4 or _DULL.search(sentence) or len(node.body) < 2:
            continue
        bare = ast.FunctionDef(**{**dict(ast.iter_fields(node)), "body": node.body[1:], "decorator_list": []})
        code = ast.unparse(ast.fix_missing_locations(bare))
        if len(code) <= longest and code.count("\n") >= 2:
            yield code, sentence


def first_sentence(docstring: str) -> str:
    """The first sentence of a docstring's first paragraph, in one line, with its full stop."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    end = _END.search(paragraph)
    sentence = paragraph[: end.start() + 1] if end else paragraph
    return sentence if sentence.endswith(".") else f"{sentence}."
