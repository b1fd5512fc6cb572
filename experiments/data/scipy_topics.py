"""scipy_topics: from a docstring, tell which public subpackage of the installed scipy it belongs to.

Real sentences that every machine with scipy already has, so nothing is shipped and nothing is downloaded.
The sources are parsed with `ast`, never imported. The 13 classes are the subpackages with enough
documentation to learn from (the smallest, cluster, has about 55 texts); fftpack, odr, constants, datasets
and differentiate have fewer than 40 each and misc is empty.

A text is the summary of a docstring: what stands before its first section (Parameters, Returns, ...), in
one line, without markup. Written out in tokens, a numpydoc underline would take ten of the 48 places. A
dotted name that would give the answer away loses its path: `scipy.stats.bootstrap` is read as "bootstrap".
Texts under five words say too little and are left out, as are tests and `_lib`; a text that occurs twice is
kept once, one that occurs in two subpackages not at all.
"""

import ast
import hashlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from experiments.data._tasks import RawTask, Rows, carve
from experiments.errors import UserError

LABELS = (
    "cluster", "fft", "integrate", "interpolate", "io", "linalg", "ndimage",
    "optimize", "signal", "sparse", "spatial", "special", "stats",
)  # fmt: skip
FEWEST_WORDS = 5

_SECTION = re.compile(r"^[ \t]*[A-Z][A-Za-z ]*\n[ \t]*-{3,}[ \t]*$", re.MULTILINE)  # a numpydoc heading
_RULE = re.compile(r"^[ \t]*[=\-~^*#]{3,}[ \t]*$", re.MULTILINE)  # lines that only underline a title
_DIRECTIVE = re.compile(r"^[ \t]*\.\. .*$", re.MULTILINE)
_ROLE = re.compile(r":[a-z]+:(?=`)|%\(\w+\)s")  # and templates that are filled in later
_PATH = re.compile(r"~?\b[Ss]ci[Pp]y(?:[./]\w+)+")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def source(options: Mapping[str, Any]) -> str:
    """The hash of every source file that is read, and of where it stands."""
    key = hashlib.sha256()
    for label, path in _files(package_folder("scipy", "scipy_topics")):
        key.update(f"{label} {path.name}\n".encode())
        key.update(path.read_bytes())
    return key.hexdigest()


def read(options: Mapping[str, Any]) -> RawTask:
    """Collect the texts of the installed scipy and split them by their own hash."""
    root = package_folder("scipy", "scipy_topics")
    found: dict[str, set[str]] = {}
    for label, path in _files(root):
        for docstring in _docstrings(path):
            text = clean(docstring)
            if len(text.split()) >= FEWEST_WORDS:
                found.setdefault(text, set()).add(label)
    examples = [(text, LABELS.index(min(labels))) for text, labels in found.items() if len(labels) == 1]
    if len({label for _, label in examples}) < len(LABELS):
        raise UserError(
            f"dataset=scipy_topics found only {len(examples)} docstrings in {root}, not all of "
            f"{', '.join(LABELS)}. Is this scipy built without its sources or docstrings? Install it again: "
            "pip install --force-reinstall scipy"
        )
    parts, _ = carve({"train": examples}, text=lambda example: example[0], label=lambda example: example[1])
    splits = {split: Rows.classification(part) for split, part in parts.items()}
    return RawTask("scipy_topics", "classification", LABELS, splits)


def clean(docstring: str) -> str:
    """The summary of a docstring in one line, without markup and without paths that name its subpackage."""
    heading = _SECTION.search(docstring)
    text = docstring[: heading.start()] if heading else docstring
    for pattern in (_RULE, _DIRECTIVE, _ROLE):
        text = pattern.sub("", text)
    text = _PATH.sub(_last_name, text)
    return " ".join(text.replace("`", "").split())


def _last_name(match: re.Match[str]) -> str:
    """scipy.io.loadmat -> loadmat; scipy.io -> scipy."""
    name = re.split(r"[./]", match.group())[-1]
    return "scipy" if name in LABELS else name


@lru_cache
def package_folder(package: str, dataset: str) -> Path:
    """Where an installed package is; UserError, for a dataset that reads it, where it is not."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"dataset={dataset} reads {package}, which is not installed: pip install {package}")
    return Path(spec.submodule_search_locations[0])


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """(label, file) for every source file of the 13 subpackages, in the order of their names."""
    for label in LABELS:
        for path in sorted((root / label).rglob("*.py")):
            if not {"tests", "_lib"} & set(path.relative_to(root).parts):
                yield label, path


def _docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node)):
            yield text
