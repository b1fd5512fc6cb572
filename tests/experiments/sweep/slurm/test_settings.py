"""The launcher's keys: what a run gets of Slurm, and what is said of mistakes."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from experiments.config import reading
from experiments.config.groups import Conf
from experiments.errors import UserError
from experiments.sweep.slurm.settings import JOB, SHAPE, Settings

CONF = Path(__file__).parents[4] / "conf"
KNOWN = {"variant": ["lora", "full"], "model": ["minilm", "hf"]}


@pytest.fixture
def defaults():
    """The file as it stands."""
    given = yaml.safe_load((CONF / "hydra/launcher/slurm.yaml").read_text())
    del given["_target_"]
    return {**given, "workers": "auto", "keep_going": True}


def spec(variant="lora", model="minilm"):
    return SimpleNamespace(variant=variant, model=model)


def test_the_file_has_every_key_and_no_other(defaults):
    assert set(defaults) == {*SHAPE, *JOB, "resources", "workers", "keep_going"}


def test_full_gets_more_memory_than_an_adapter(defaults):
    settings = Settings.of(defaults, known=KNOWN)
    assert settings.shape(spec("full")).mem_gb > settings.shape(spec("lora")).mem_gb


def test_a_model_goes_before_a_variant_and_a_variant_before_the_rest(defaults):
    defaults["resources"] = {"variant": {"full": {"cpus": 5, "minutes": 7}}, "model": {"hf": {"cpus": 6}}}
    settings = Settings.of(defaults, known=KNOWN)
    shapes = [settings.shape(spec(v, m)) for v in ("lora", "full") for m in ("minilm", "hf")]
    assert [(s.cpus, s.minutes) for s in shapes] == [(4, 240), (6, 240), (5, 7), (6, 7)]


def test_a_shape_as_sbatch_takes_it(defaults):
    given = {
        "partition": "long", "account": "me", "qos": "high", "constraint": "a100|h100",
        "exclude": "node[1,3]", "minutes": 90, "cpus": 3, "mem_gb": 1.5, "gpus": 2, "gpu_type": "a100",
        "sbatch": ["--nice=5", "--exclusive"],
    }  # fmt: skip
    words = list(Settings.of({**defaults, **given}, known=KNOWN).shape(spec()).words())
    assert words == [
        "--partition=long", "--account=me", "--qos=high", "--constraint=a100|h100", "--exclude=node[1,3]",
        "--time=90", "--nodes=1", "--ntasks=1", "--cpus-per-task=3", "--mem=1536M", "--gres=gpu:a100:2",
        "--nice=5", "--exclusive",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("hydra.launcher.minuts=5", "There is no key 'hydra.launcher.minuts'. Did you mean 'minutes'?"),
        ("hydra.launcher.cpus=0", "hydra.launcher.cpus takes a whole number of at least 1, not 0."),
        ("hydra.launcher.mem_gb=16G", "hydra.launcher.mem_gb takes a number above 0, or null, not '16G'."),
        ("hydra.launcher.cpus=1,2", "hydra.launcher.cpus takes one value per command"),
        ("hydra.launcher.resources.variant.ful.cpus=2", "'ful', which is no variant. Did you mean 'full'?"),
        ("hydra.launcher.resources.variant.full.cpu=2", "Did you mean 'cpus'?"),
        ("hydra.launcher.resources.dataset.csv.cpus=2", "hydra.launcher.resources has no 'dataset'."),
        ("hydra.launcher.resources.report={cpus:none}", "hydra.launcher.resources.report.cpus takes"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(word, told):
    [problem] = reading.understood(["hydra/launcher=slurm", word], Conf(CONF), dimensions=None)[1]
    assert told in problem


def test_keys_of_slurm_without_it_are_a_mistake():
    [problem] = reading.understood(["hydra.launcher.minutes=5"], Conf(CONF), dimensions=None)[1]
    assert "add hydra/launcher=slurm" in problem


def test_right_words_are_none(defaults):
    words = [
        "hydra/launcher=slurm",
        "hydra.launcher.resources.model.hf.minutes=600",
        "hydra.launcher.setup=[a,b]",
    ]
    assert reading.understood(words, Conf(CONF), dimensions=None)[1] == []


def test_a_file_that_is_not_there_is_refused(defaults):
    with pytest.raises(UserError, match=r"hydra\.launcher\.env names my-env\.sh, which is no file here"):
        Settings.of({**defaults, "env": "my-env.sh"}, known=KNOWN)


def test_a_warning_longer_than_the_limit_is_refused(defaults):
    defaults["resources"]["model"] = {"hf": {"minutes": 2}}
    with pytest.raises(UserError, match=r"warning_seconds=120 leaves nothing of a limit of minutes=2"):
        Settings.of(defaults, known=KNOWN)


@pytest.mark.parametrize("key", ["gpus", "cpus"])
def test_a_job_with_too_few_devices_for_a_sharded_run_is_refused(defaults, key):
    told = rf"hydra\.launcher\.{key}=1 is too few for fsdp=2, .*: give hydra\.launcher\.gpus=2\."
    with pytest.raises(UserError, match=told):
        Settings.of({**defaults, "fsdp": 2, key: 1}, known=KNOWN)
    Settings.of({**defaults, "fsdp": 2, key: 2}, known=KNOWN)
    Settings.of({**defaults, "fsdp": 1, key: 1}, known=KNOWN)
