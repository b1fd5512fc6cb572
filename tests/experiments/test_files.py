"""Writing files in one piece, with the modes that the user asked for; reading JSON of whatever kind."""

import json
import os
import stat

import pytest
import torch
from safetensors.torch import save_file

from experiments.files import (
    parse_json,
    read_json,
    remove_temporaries,
    replacing,
    replacing_folder,
    write_json,
)


@pytest.fixture
def umask():
    """Set the umask; what was before comes back."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def private(path):
    """Write as some libraries do: a file that only its owner may read, moved to the path."""
    save_file({"a": torch.arange(5)}, path)
    os.chmod(path, 0o600)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o027, 0o640), (0o002, 0o664)])
def test_modes_follow_the_umask_whatever_wrote_the_file(tmp_path, umask, mask, mode):
    umask(mask)
    with replacing(tmp_path / "weights.safetensors") as temporary:
        private(temporary)
    with replacing_folder(tmp_path / "adapter") as temporary:
        (temporary / "below").mkdir()
        private(temporary / "below/weights.safetensors")
    for name in ("weights.safetensors", "adapter/below/weights.safetensors"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode


def test_what_a_kill_left_is_removed_files_and_folders(tmp_path):
    for name in (".a.json.12-ab.tmp", "below/.b.12-ab.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("half")
    for name in (".adapter.12-ab.tmp", ".adapter.12-ab.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text("half")
    (tmp_path / "kept.tmp").write_text("not ours")
    remove_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["below", "kept.tmp"]


class Lost(Exception):
    """It is another's by now."""


def test_a_check_that_fails_leaves_what_was_there_and_nothing_else(tmp_path):
    write_json(tmp_path / "a.json", {"of": "another"})
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/x").write_text("another's")

    def lost():
        raise Lost

    with pytest.raises(Lost):
        write_json(tmp_path / "a.json", {"of": "us"}, check=lost)
    with pytest.raises(Lost), replacing_folder(tmp_path / "folder", check=lost) as temporary:
        (temporary / "x").write_text("ours")
    assert read_json(tmp_path / "a.json") == {"of": "another"}
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.json", "folder", "x"]
    assert (tmp_path / "folder/x").read_text() == "another's"


@pytest.mark.parametrize("depth", [65, 900, 200_000])
@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a":', "}"), ('[{"b":', "}]")])
def test_what_is_nested_too_deeply_is_a_value_error(depth, begin, end):
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(begin * depth + "1" + end * depth)


def test_what_is_nested_as_deeply_as_ours_is_read():
    value = {"a": [{"b": {"c": [1, {"d": {"e": [[]]}}]}}], "f": None}
    assert parse_json(json.dumps(value)) == value
    assert parse_json("3") == 3
