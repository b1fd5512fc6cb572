"""Provenance: what it says of the code, that it asks once, and that it never fails."""

import json
import subprocess
import sys

import pytest

from experiments import provenance


def forget():
    """As in a process that has just begun."""
    provenance.source.cache_clear()
    provenance._static.cache_clear()


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A small repository with one commit, taken for the project's."""
    root = tmp_path / "clone"
    for name in ("variants/lora.py", "experiments/data/csv.py", "README.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-m", "one")
    monkeypatch.setattr(provenance, "ROOT", root)
    forget()
    yield root
    forget()


def git(root, *words):
    done = subprocess.run(["git", "-C", root, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_is_named_and_a_clean_tree_is_clean(clone):
    found = provenance.collect()
    assert found["git_sha"] == git(clone, "rev-parse", "HEAD") and found["dirty"] is False


@pytest.mark.parametrize("name", ["variants/lora.py", "variants/new.py"], ids=["changed", "untracked"])
def test_a_change_and_a_new_file_both_make_it_dirty(clone, name):
    (clone / name).write_text("other")
    assert provenance.collect()["dirty"] is True


def test_the_codes_hash_follows_sources_and_nothing_else(clone):
    before = provenance.code_sha256(clone)
    (clone / "README.md").write_text("longer")
    (clone / "variants" / "notes.txt").write_text("x")
    for name in (
        "bench/step.py",
        "sweep/tuning/grids.py",
        "export/x.py",
        "tracking/w.py",
        "console/commands.py",
    ):
        (clone / "experiments" / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / "experiments" / name).write_text("plans, or looks back")
    assert provenance.code_sha256(clone) == before
    (clone / "experiments/data/loop.py").write_text("trains")
    assert provenance.code_sha256(clone) != before
    before = provenance.code_sha256(clone)
    (clone / "experiments/data/csv.py").rename(clone / "experiments/data/tsv.py")
    renamed = provenance.code_sha256(clone)
    (clone / "variants/lora.py").write_text("x = 1")
    assert len({before, renamed, provenance.code_sha256(clone)}) == 3


def test_outside_git_only_the_commit_is_absent(clone):
    (clone / ".git").rename(clone.parent / "gone")
    found = provenance.collect()
    assert not {"git_sha", "dirty"} & set(found)
    assert {"code_sha256", "versions", "python", "host", "device", "threads"} <= set(found)


def test_without_the_git_program_it_still_answers(clone, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "code_sha256" in provenance.collect()


def test_it_is_json_and_names_the_packages_that_matter():
    found = provenance.collect()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert {"torch", "transformers", "numpy"} <= set(found["versions"])


def test_it_imports_nothing_heavy():
    code = (
        "import sys; from experiments import provenance; provenance.collect()\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=provenance.ROOT, check=True)


def test_asking_again_looks_at_no_file(clone, monkeypatch):
    first = provenance.collect()
    monkeypatch.setattr(subprocess, "run", None)
    monkeypatch.setattr(provenance, "code_sha256", None)
    assert provenance.collect() == first


def test_a_copy_says_what_its_original_said(clone):
    stamp = {"git_sha": "abc", "dirty": True, "code_sha256": "def"}
    (clone / provenance.STAMP).write_text(json.dumps(stamp))
    (clone / "variants/lora.py").write_text("other")
    found = provenance.collect()
    assert {key: found[key] for key in stamp} == stamp


def test_a_job_of_slurm_is_named_as_slurms_commands_name_it(monkeypatch):
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    assert "slurm" not in provenance.collect()
    monkeypatch.setenv("SLURM_JOB_ID", "14")
    assert provenance.collect()["slurm"] == {"job": "14", "restarts": 0}
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert provenance.collect()["slurm"] == {"job": "12_1", "restarts": 2}
