"""An export appears whole or not at all, and takes the place of nothing but another export."""

import resource

import pytest

from experiments.artifacts import open_source
from experiments.export import Options, _fidelity, check_vacant, export
from experiments.export.__main__ import main


def test_a_folder_in_use_is_left_alone(finished, tmp_path, capsys):
    run, out = finished("lora"), tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    for flags in ([], ["--replace"]):
        assert main([str(run), str(out), "--to", "peft", *flags]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "is there already and holds thesis.tex. Choose another folder, or give --replace" in first
    assert "no export wrote it" in second and (out / "thesis.tex").read_text() == "mine"
    (out / "thesis.tex").unlink()
    assert main([str(run), str(out), "--to", "peft"]) == 0  # an empty folder is free
    with pytest.raises(Exception, match="give --replace"):
        check_vacant(out, replace=False)
    assert main([str(run), str(out), "--to", "merged", "--replace"]) == 0
    assert not (out / "adapter_config.json").exists() and (out / "config.json").exists()


@pytest.mark.parametrize("to", ["peft", "merged", "dense-delta"])
def test_a_full_disk_leaves_nothing(to, finished, tmp_path, capsys):
    """The limit on the size of files makes the system refuse to write, as a full disk does."""
    run = finished("dora", targets="all", r=3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        assert main([str(run), str(tmp_path / "out"), "--to", to]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err
    assert "cannot write" in said and "Nothing is left half-written" in said
    assert not list(tmp_path.iterdir())


def test_an_interrupted_export_leaves_the_earlier_one(finished, tmp_path, monkeypatch):
    run, out = finished("lora"), tmp_path / "out"
    export(open_source(run), "peft", out, Options())
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(_fidelity.Reference, "report", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(open_source(run), "merged", out, Options(replace=True))
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
