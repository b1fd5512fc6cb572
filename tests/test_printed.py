"""What is printed can be typed: every command and every key=value in texts, hints and docs is read again.

The texts are the strings of the code, comments of conf/, README and docs; what the code fills in is left out.
"""

import argparse
import ast
import re
import runpy
import shlex
from pathlib import Path

import pytest

from experiments.config import reading
from experiments.config.groups import Conf
from experiments.config.overrides import parse
from experiments.data.__main__ import options
from experiments.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
CONF = Conf(ROOT / "conf")
ROOMS = ("experiments", "analysis", "variants", "hydra_plugins", "slurm", "conf")
FILLED = "FILLED"  # stands for what the code fills in
TYPED = (
    "run.py", "experiments.sweep", "experiments.bench", "experiments.data", "experiments.export",
    "experiments.predict", "experiments.lm_eval", "analysis.report", "analysis.audit", "analysis.power",
    "analysis.defaults", "analysis.simulate",
)  # fmt: skip
COMMAND = re.compile(r"python (run\.py|-m (?:experiments|analysis)[\w.]*)([^`\n)\"]*)")
SHORT = "|".join({*CONF.short_keys(), *CONF.groups()})
WORD = re.compile(
    rf"(?<![\w.\-/<{{$+])((?:variant|model|dataset|train|tracker|hydra)[./][\w./]+|{SHORT})=([^\s`;]+)"
)


def texts():
    """(where, text) of all that a person may read."""
    for path in [ROOT / "run.py", *ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        yield path.relative_to(ROOT), path.read_text()
    for path in (path for room in ROOMS for path in sorted((ROOT / room).rglob("*"))):
        if path.suffix in (".j2", ".sh", ".sbatch"):
            yield path.relative_to(ROOT), path.read_text()
        elif path.suffix == ".yaml":
            yield path.relative_to(ROOT), "\n".join(re.findall(r"#.*", path.read_text()))
        elif path.suffix == ".py":
            for text in _strings(ast.parse(path.read_text())):
                yield path.relative_to(ROOT), text


def _strings(tree):
    """The strings of a module; what an f-string fills in is FILLED."""
    if isinstance(tree, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else FILLED for part in tree.values)
        return
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        yield tree.value
    for node in ast.iter_child_nodes(tree):
        yield from _strings(node)


def commands():
    """(program, words behind it) of every command, without what is optional in it or a shell's."""
    found = {}
    for where, text in texts():
        for program, rest in COMMAND.findall(re.sub(r"\\\n\s*", "", text)):
            rest = re.sub(r" \[[^\]]*\]", "", rest)
            rest = re.split(r"\s*[#|&]|\s+[>(]|\s{2,}|[.,;:](?:\s|$)", rest)[0].strip()
            program, openly = (
                program.removeprefix("-m "),
                re.search(r"<|\.\.", rest) or rest.startswith(FILLED),
            )
            if rest and not openly and program in TYPED:
                found.setdefault((program, rest), where)
    return [pytest.param(*command, id=f"{where}: {' '.join(command)}") for command, where in found.items()]


class Parsed(Exception):
    """The words of a command were accepted."""


@pytest.mark.parametrize(("program", "rest"), commands())
def test_a_command_in_a_text_can_be_typed(program, rest, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(rest)
    if words[0] in ("--help", "--shell-completion"):  # see test_hydra_flags.py
        return
    if program == "run.py":
        assert mistakes(words) == []
    elif program == "experiments.data":
        assert words[0] in CONF.choices("dataset") and options(words[0], words[1:])
    else:
        for name in ("parse_args", "parse_intermixed_args"):
            monkeypatch.setattr(argparse.ArgumentParser, name, _stopping(name))
        monkeypatch.setattr("sys.argv", [program, *words])
        with pytest.raises(Parsed):
            runpy.run_module(program, run_name="__main__")
        assert words[:1] != ["plan"] or mistakes(words[1:]) == []


def _stopping(name):
    """A method of argparse that raises Parsed when it has parsed all words."""
    parse_words = getattr(argparse.ArgumentParser, name)

    def stopping(*arguments, **how):
        parse_words(*arguments, **how)
        raise Parsed

    return stopping


def mistakes(words):
    """What is wrong with a command, but for files that its reader has."""
    flags, rest, wrong = reading.split(words)
    folders = [Path(flags[flag]) for flag in ("--config-dir", "-cd") if flag in flags]
    for folder in folders:  # with what docs/write-your-own-variant.md puts there
        (folder / "variant").mkdir(parents=True)
        (folder / "variant/frozen_a.yaml").write_text("defaults: [lora, _self_]\nname: frozen_a\n")
    conf = Conf(CONF.folders[0], *folders)
    try:
        wrong = [*wrong, *reading.understood(rest, conf, dimensions=None)[1]]
    except UserError as error:
        wrong.append(str(error))
    return [problem for problem in wrong if "there is no such file" not in problem]


def hints():
    """(key, value) of every key=value; the value is None where it is not given in full."""
    found = {}
    for where, text in texts():
        for key, value in WORD.findall(text):
            ends = r"\].*|" if "[" in value else r"\).*|" if "(" not in value else ""
            value = re.sub(rf"(?:{ends}[.,:?!\"'])+$", lambda end: "]" * ("]" in end[0]), value)
            openly = (
                re.search(rf"{FILLED}|[<>{{}}|\\]|\.\.|^\(|^[a-z](,[a-z])*$|^[A-Z]+$", value) or not value
            )
            if FILLED not in key and key not in ("hydra/launcher", "hydra.mode"):  # of Hydra's own
                found.setdefault((key, None if openly else value), where)
    return [pytest.param(*hint, id=f"{where}: {'='.join(map(str, hint))}") for hint, where in found.items()]


@pytest.mark.parametrize(("key", "value"), hints())
def test_a_key_in_a_text_is_one_and_takes_its_value(key, value):
    group = key.partition(".")[0]
    if key.startswith("hydra"):
        chosen = (
            ["hydra/launcher=slurm"] if ".launcher." in key else ["hydra/sweeper=fair"] if "." in key else []
        )
        assert value is None or mistakes([*chosen, f"{key}={value}"]) == []
    elif key in CONF.groups():
        assert value is None or {*parse(f"{key}={value}", choices=CONF.choices).values} <= {
            *CONF.choices(key), "frozen_a",  # the one that docs/write-your-own-variant.md makes
        }  # fmt: skip
    else:
        files = [CONF.keys(group, file) for file in CONF.choices(group)] or [CONF.short_keys()]
        having = [keys[key] for keys in files if key in keys]
        assert having
        for each in () if value is None else parse(f"{key}={value}").values:
            assert any(_takes(one, each) for one in having)


def _takes(key, value):
    try:
        key.convert(value)
    except ValueError:
        return False
    return True
