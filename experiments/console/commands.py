"""Command lines made of the files of a folder: each file is a subcommand and carries its name.

A file's docstring is its help. `arguments(parser)` adds what it takes, `main(options)` does it and returns
the exit code (None is 0). Only the file that was named is imported, so that help is quick.
"""

import argparse
import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.errors import did_you_mean, report_errors, say


def run(package: str, about: str, arguments: Sequence[str] | None = None) -> int:
    """Parse a command line and carry it out; the exit code, 2 for a UserError.

    Args:
        package: Whose `commands` folder holds the files, e.g. "experiments.sweep"; it is also how the program
            is called.
        about: What the help says first; its first paragraph.
        arguments: The words; those of the process if None.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=about.split("\n\n")[0])
    known = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parsers = {}
    for path in files(package):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        parsers[path.stem] = known.add_parser(
            path.stem,
            help=text.split("\n")[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen = words[0] if words and words[0] in parsers else None
    if words and chosen is None and not words[0].startswith("-"):
        hint = did_you_mean(words[0], parsers)
        say(f"error: there is no command {words[0]!r}.{hint} Known: {', '.join(parsers)}.", error=True)
        return 2
    if chosen is None:
        parser.parse_args(words)  # says what is wrong, or shows the help, and ends the process
        return 2
    module = importlib.import_module(f"{package}.commands.{chosen}")
    module.arguments(parsers[chosen])
    options = parsers[chosen].parse_intermixed_args(words[1:])
    return report_errors(lambda: module.main(options))


def files(package: str) -> list[Path]:
    """The files of a package's commands, by name."""
    found = importlib.import_module(f"{package}.commands").__file__
    assert found is not None
    return sorted(path for path in Path(found).parent.glob("*.py") if not path.stem.startswith("_"))
