"""Command lines made of a folder's files."""

import sys

import pytest

from experiments.console import commands

ECHO = '''"""Say it again.

More on it.
"""
from experiments.errors import UserError


def arguments(parser):
    parser.add_argument("word")


def main(options):
    if options.word == "bad":
        raise UserError("bad is no word")
    if options.word == "interrupted":
        raise KeyboardInterrupt
    print(options.word)
    return 3 if options.word == "three" else None
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with two commands, one of which cannot be imported."""
    folder = tmp_path / "toy_commands" / "commands"
    folder.mkdir(parents=True)
    for path in (folder.parent / "__init__.py", folder / "__init__.py"):
        path.write_text("")
    (folder / "echo.py").write_text(ECHO)
    (folder / "broken.py").write_text('"""Never imported."""\nraise RuntimeError')
    (folder / "_help.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield "toy_commands"
    for name in [name for name in sys.modules if name.startswith("toy_commands")]:
        del sys.modules[name]


@pytest.mark.parametrize(("word", "code"), [("hello", 0), ("three", 3), ("bad", 2)])
def test_a_command_is_carried_out_and_its_exit_code_passed_on(package, capsys, word, code):
    assert commands.run(package, "About.", ["echo", word]) == code
    shown = capsys.readouterr()
    assert (shown.err if word == "bad" else shown.out).strip() == (
        "error: bad is no word" if word == "bad" else word
    )


def test_ctrl_c_ends_a_command_with_130_and_without_a_traceback(package, capsys):
    assert commands.run(package, "About.", ["echo", "interrupted"]) == 130
    assert capsys.readouterr().err == ""


def test_help_names_every_command_and_imports_none(package, capsys):
    with pytest.raises(SystemExit) as end:
        commands.run(package, "What it does.\n\nDetails.", ["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert "What it does." in text and "Details." not in text
    assert "echo" in text and "Say it again." in text and "broken" in text and "_help" not in text


@pytest.mark.parametrize("words", [[], ["echo"], ["echo", "a", "b"]])
def test_mistakes_end_with_2(package, capsys, words):
    with pytest.raises(SystemExit) as end:
        commands.run(package, "About.", words)
    assert end.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_an_unknown_command_gets_the_nearest(package, capsys):
    assert commands.run(package, "About.", ["ech"]) == 2
    assert "there is no command 'ech'. Did you mean 'echo'?" in capsys.readouterr().err
