"""A study goes by the folder that is given, whatever the files in it say."""

import contextlib
import json
import shutil

import pytest

from experiments import data
from experiments.bench.fake import finish, specs_of
from experiments.console import commands
from experiments.errors import RunError, UserError
from experiments.record import planned
from experiments.spec import from_record
from experiments.sweep import engine
from experiments.sweep.lease import registered
from experiments.sweep.slurm.submission import element, write_elements
from experiments.sweep.status import snapshot
from experiments.sweep.study import gone_if_refused, specs_in, write_requested


def sweep(*words):
    return commands.run("experiments.sweep", "", words)


@pytest.fixture
def study(tmp_path):
    """runs/demo: two runs of which one is finished, both requested."""
    specs = specs_of("variant=lora,dora", "r=3", "study=demo")
    names = [spec.run_id(data.fingerprint(spec)) for spec in specs]
    finish(specs[0], tmp_path / "runs/demo" / names[0])
    write_requested(tmp_path / "runs/demo", tuple(zip(specs, names, strict=True)))
    return tmp_path / "runs/demo"


@pytest.fixture
def ran(monkeypatch):
    """What the engine was asked to run: the folders of the studies and the numbers of runs."""
    found = []
    monkeypatch.setattr(
        engine, "run", lambda specs, *, root, **how: found.append((root / specs[0].study, len(specs))) or 0
    )
    return found


@pytest.mark.parametrize("how", ["copied", "renamed"])
def test_retry_acts_on_the_folder_that_is_given(study, ran, how):
    other = study.with_name("other.name")
    (shutil.copytree if how == "copied" else shutil.move)(study, other)
    names = sorted(planned(other))
    assert sweep("retry", str(other)) == 0
    assert sweep("retry", str(other), *names) == 0
    assert ran == [(other, 1), (other, 2)]


@pytest.mark.parametrize("given", [".", "../demo", "../demo/."])
def test_a_folder_may_be_given_from_inside(study, ran, monkeypatch, given):
    monkeypatch.chdir(study)
    assert sweep("retry", given) == 0
    [(folder, runs)] = ran
    assert folder.resolve() == study and folder.name == "demo" and runs == 1


@pytest.mark.parametrize("name", ["../../x", "..", "", "/tmp/x", ".hidden", "a/b", "a\x1b[2J", None, ["x"]])
def test_a_study_named_in_a_spec_never_leaves_the_folder(study, ran, name):
    [path] = study.glob("*/spec.json")
    content = json.loads(path.read_text()) | {"study": name}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no name of a folder"):
        from_record(content)
    for list_ in (study / ".planned").glob("*.jsonl"):
        lines = list_.read_text().splitlines()
        list_.write_text("\n".join([json.dumps(json.loads(lines[0]) | {"study": name}), *lines[1:]]))
    with pytest.raises(UserError, match="give the command that requested it again"):
        specs_in(study, [path.parent.name])
    assert sweep("retry", str(study), path.parent.name) == 2 and ran == []


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", "", "a\x1b]0;b\x07", "x" * 101])
def test_runs_named_in_a_list_are_names_or_are_passed_over(study, name):
    [path] = [path for path in (study / ".planned").glob("*.json")]
    content = json.loads(path.read_text())
    before = planned(study)
    content["cells"][name] = {"variant": "lora"}
    path.write_text(json.dumps(content))
    assert planned(study) == before
    assert {run.run_id for run in snapshot(study).runs} == before.keys()


def test_what_was_submitted_is_of_the_study_that_it_lies_in(study, tmp_path):
    specs = specs_of("variant=lora", "study=demo")
    file = tmp_path / "runs/moved/.slurm/1/1.jsonl"
    file.parent.mkdir(parents=True)
    write_elements(file, [tuple((spec, "name") for spec in specs)])
    assert [spec.study for spec, _ in element(file, 0)] == ["moved"]


def test_status_shows_no_escape_sequences_and_a_line_per_run(study, capsys):
    [path] = study.glob("*/record.json")
    content = json.loads(path.read_text())
    del content["sha256"]  # as an older version wrote it
    text = "one\n\x1b[31mtwo\x1b]0;title\x07"
    for error in ({"kind": "x", "message": text}, text):
        path.write_text(json.dumps({**content, "status": "failed", "error": error}))
        assert sweep("status", str(study)) == 0
        output = capsys.readouterr().out
        assert "\x1b" not in output and "\x07" not in output
        assert f"{path.parent.name}  failed, one \ufffd[31mtwo\ufffd]0;title\ufffd" in output.splitlines()


@pytest.mark.parametrize("name", ["record.json", "spec.json", ".verified.json"])
def test_a_file_that_is_nested_too_deeply_ends_no_command(study, ran, name):
    folder = next(study.glob("*/record.json")).parent
    path = study / name if name.startswith(".") else folder / name
    path.write_text("[" * 100_000 + "]" * 100_000)
    assert sweep("status", str(study)) == 0
    assert sweep("retry", str(study), folder.name) == 0
    assert [runs for _, runs in ran] == [1]


@pytest.mark.parametrize("error", [None, UserError("no such data"), RunError("the worker died")])
def test_a_folder_that_a_refused_command_made_is_gone_and_one_that_was_there_stays(tmp_path, error):
    for name, before in (("new", False), ("old", True)):
        study = tmp_path / name / "study"
        if before:
            study.mkdir(parents=True)
        with contextlib.suppress(UserError), gone_if_refused(study):
            study.mkdir(exist_ok=True, parents=True)
            (study / ".logs").mkdir()
            (study / ".logs" / "worker").write_text("what it said")
            with registered(study):
                if error:
                    raise error
        assert study.exists() == (before or isinstance(error, RunError))  # its log says why it died
        assert study.parent.exists() == study.exists()


def test_a_command_that_began_something_leaves_its_study(tmp_path, study):
    with gone_if_refused(tmp_path / "new"):
        shutil.copytree(study, tmp_path / "new")
    assert snapshot(tmp_path / "new").runs
