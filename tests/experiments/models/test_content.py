"""What a model's folder holds, as one hash: no byte can change without it, and what is remembered is safe."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments import cache, files, models
from experiments.errors import UserError
from experiments.models import commit_of, content_of

LATER = 3600  # seconds: what is older than the clock's grain is remembered


@pytest.fixture
def folder(tiny_bert, tmp_path, monkeypatch):
    """A copy of a model that was written an hour ago, and an empty cache."""
    monkeypatch.setenv("ABLORA_CACHE", str(tmp_path / "cache"))
    place = shutil.copytree(tiny_bert, tmp_path / "model")
    now = os.stat(place).st_ctime
    monkeypatch.setattr("time.time", lambda: now + LATER)
    return place


@pytest.fixture
def read(monkeypatch):
    """The names of the files whose bytes were hashed."""
    names = []
    sha256 = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: (names.append(path.name), sha256(path))[1])
    return names


def test_no_tensor_can_change_without_the_identity(folder):
    """Large ones beside small ones: what is sampled of a file would miss those between the samples."""
    tensors = {f"block.{i}.weight": torch.full((97 * (1 + i % 5), 331), i / 7) for i in range(23)}
    save_file(tensors, folder / "model.safetensors")
    seen = {content_of(folder)}
    for name, tensor in tensors.items():
        save_file({**tensors, name: 2 * tensor + 1}, folder / "model.safetensors")
        seen.add(content_of(folder))
    assert len(seen) == 24


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_config_and_tokenizer_count_too(folder, name):
    before = content_of(folder)
    (folder / name).write_text((folder / name).read_text().replace("{", "{ ", 1))
    assert content_of(folder) != before


@pytest.mark.parametrize("name", ["spm.model", "merges.txt", "chat_template.jinja", "vocab.bpe"])
def test_a_vocabulary_or_template_in_a_file_of_its_own_counts(folder, name):
    before = content_of(folder)
    (folder / name).write_text("a b")
    one = content_of(folder)
    (folder / name).write_text("a c")
    assert len({before, one, content_of(folder)}) == 3


def test_what_loading_does_not_read_does_not_count(folder):
    before = content_of(folder)
    (folder / "README.md").write_text("about")
    (folder / "pytorch_model.bin").write_bytes(b"the same weights as a pickle")
    (folder / "checkpoint-5").mkdir()
    assert content_of(folder) == before


def test_the_identity_is_of_what_is_there_not_of_where(folder, tmp_path):
    assert content_of(shutil.copytree(folder, tmp_path / "elsewhere")) == content_of(folder)


def test_a_file_is_read_once_by_all_processes(folder, read):
    first = content_of(folder)
    assert "model.safetensors" in read
    code = """
import sys; from pathlib import Path; from experiments import files; from experiments.models import content_of
files.sha256 = None  # no file can be read
print(content_of(Path(sys.argv[1])))
"""
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    assert done.stdout.strip() == first, done.stderr


def test_other_bytes_of_equal_size_and_time_are_seen(folder):
    """In place, and with the old time restored: the time of the change of status tells."""
    weights = folder / "model.safetensors"
    before, times = content_of(folder), os.stat(weights)
    with weights.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert content_of(folder) != before


def test_a_file_that_was_just_written_is_not_remembered(folder, read, monkeypatch):
    """Within the clock's grain it can change again and look the same."""
    monkeypatch.setattr("time.time", lambda: os.stat(folder / "model.safetensors").st_ctime)
    content_of(folder)
    content_of(folder)
    assert read.count("model.safetensors") == 2


@pytest.mark.parametrize("damage", ["", "{", '{"body": "x"}\n{"sha256": 5}\n', None])
def test_losing_or_damaging_what_is_remembered_is_harmless(folder, damage):
    before = content_of(folder)
    for entry in (cache.folder() / "files").iterdir():
        entry.unlink() if damage is None else entry.write_text(damage)
    assert content_of(folder) == before


def test_a_cache_that_cannot_be_written_costs_time_only(folder, monkeypatch, tmp_path):
    before = content_of(folder)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ABLORA_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(cache, "_problems", [])
    assert content_of(folder) == before


def test_a_file_that_cannot_be_read_is_named(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "sha256", refuse)
    with pytest.raises(UserError, match=r"config\.json cannot be read \(Permission denied\)"):
        content_of(folder)


def test_a_model_that_changed_since_its_run_was_planned_is_refused(folder, spec_of):
    spec = spec_of(folder)
    spec.model_options["content"] = content_of(folder)
    models.load(spec, kind="classification", n_labels=3)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {**tensors, "pooler.dense.bias": tensors["pooler.dense.bias"] + 1}, folder / "model.safetensors"
    )
    with pytest.raises(
        UserError, match=r"no longer holds what this run was planned with.*give the command again"
    ):
        models.load(spec, kind="classification", n_labels=3)
    with pytest.raises(UserError, match="no longer holds"):
        list(models.weights(spec, ["encoder.layer.0.attention.self.query"]))


def test_a_run_that_an_older_version_planned_says_that_it_cannot_tell(folder, spec_of):
    spec = spec_of(folder)
    spec.model_options["content"] = "0123456789abcdef"
    info = models.load(spec, kind="classification", n_labels=3)[2]
    assert any("by samples of its files" in note for note in info.notes)


class Hub:
    """A stand-in for the hub's interface: `answer` is what it says of any model."""

    def __init__(self, answer, gated=False):
        self.answer, self.gated, self.times = answer, gated, 0

    def __call__(self):
        return self

    def model_info(self, name, *, revision, timeout):
        self.times += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        self.sha = f"{revision}@{self.answer}"
        return self

    def auth_check(self, name):
        raise _error("GatedRepoError")


def _error(kind):
    import httpx2
    from huggingface_hub import errors

    response = httpx2.Response(403, request=httpx2.Request("GET", "https://hub"))
    return getattr(errors, kind)("long words\nof a server", response=response)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_branch_is_its_commit_by_the_hubs_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    refs = tmp_path / "models--someone--cached" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(COMMIT)
    assert commit_of("someone/cached", None) == COMMIT
    assert commit_of("someone/cached", COMMIT[::-1]) == COMMIT[::-1]


def test_a_branch_is_its_commit_by_the_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub("commit"))
    assert commit_of("someone/elsewhere", "dev") == "dev@commit"


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("RepositoryNotFoundError", r"the hub has no such model, or it is private\. Check the spelling"),
        ("RevisionNotFoundError", r"has no revision dev\. Give a branch"),
        ("GatedRepoError", r"is gated.*Accept them at https://huggingface\.co/someone/Gat.*HF_TOKEN"),
    ],
)
def test_what_the_hub_does_not_give_is_told_in_a_sentence_and_asked_for_once(monkeypatch, kind, told):
    hub = Hub(_error(kind))
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    for _ in range(3):
        with pytest.raises(UserError, match=told) as caught:
            commit_of(f"someone/{kind}", "dev")
        assert "\n" not in str(caught.value)
    assert hub.times == 1


def test_a_gated_model_is_refused_though_its_commit_is_public(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub("commit", gated="manual"))
    with pytest.raises(UserError, match="is gated"):
        commit_of("someone/manual", None)


@pytest.mark.parametrize("client", [False, True])
def test_without_a_network_nothing_is_pinned_and_it_is_tried_once(monkeypatch, client):
    """The hub's library lets errors of the client that it asks by pass as they are."""
    import httpx2

    hub = Hub(httpx2.ConnectError("no route") if client else ConnectionError("no route"))
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    assert [commit_of(f"someone/unreachable{client}", None) for _ in range(3)] == [None] * 3
    assert hub.times == 1


def test_a_model_that_cannot_be_fetched_is_fetched_for_once(monkeypatch, spec_of):
    tries = []

    def snapshot(name, *, local_files_only=False, **_):
        tries.append(local_files_only)
        raise _error("GatedRepoError")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    spec = spec_of()
    spec.model_options["name"] = "someone/closed"
    for _ in range(3):
        with pytest.raises(UserError, match="someone/closed is gated"):
            models.find(spec)
    assert tries == [True, False]
