"""A command's mistakes are told all at once, in sentences, and what is right reaches Hydra."""

import shutil
from pathlib import Path

import pytest

from experiments.config import reading
from experiments.config.groups import Conf
from experiments.config.help import page
from experiments.config.overrides import parse
from experiments.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
CONF = ROOT / "conf"
SQUARE = {name: (384, 384) for name in ("q", "k", "v", "o")} | {"up": (384, 1536), "down": (1536, 384)}


def dimensions(_):
    return {"linear": SQUARE}


def mistakes(*words, conf=CONF):
    """What is wrong with a command."""
    return reading.understood(words, Conf(conf), dimensions=dimensions)[1]


# --- what is right

GOOD = [
    "variant=dora,lora r=4,8,16 study=demo",
    "variant=adalora r=8 seed=1",
    "variant=lora,rslora,loraplus,dora,adalora,qlora r=4,8,16 targets=qv,all seed=0,1,2",
    "targets=[query,value]",
    "targets=[query,value],qv",
    "targets=re:.*query",
    "seed=range(0,5)",
    "variant=glob(*lora*)",
    "dataset=csv dataset.path=EXISTING dataset.text=review dataset.label=stars",
    "dataset=csv dataset.path=[EXISTING,EXISTING] dataset.text=1",
    "variant=dora variant.storage=nf4 variant.scaling=alpha_over_sqrt_r",
    "variant=loraplus variant.lr_ratio=4,16 variant.dropout=0",
    "variant=full,probe,bitfit,zero r=4,8,16",
    "train.epochs=0.5 train.steps=null",
    "lr=1e-3,2e-3 train.head_lr=1e-2",
    "lr=null,1e-3 alpha=8,16.5",
    "+experiment=noise_floor variant=dora",
    "+experiment=default_lr r=4",
    "+experiment=default_lr_decoder variant=lora",
    "tracker=wandb tracker.mode=offline tracker.project=2024",
    "workers=2 hydra/launcher=local hydra/sweeper=grid",
    "time_limit=90 keep_going=true checkpoint_seconds=300 checkpoint_steps=50",
    "time_limit=0.5 keep_going=false checkpoint_steps=null",
    "hydra.job.name=mine",
    "model=hf model.name=org/model model.revision=1234",
    "r=4,16 alpha=${r}",
    "seed=0,1,0",
    "seed=0,1,0 repeat=true",
    "hydra/sweeper=fair seed=0,1 hydra.sweeper.tune_seeds=[7,8] hydra.sweeper.extensions=0",
    "hydra/sweeper=fair lr=1e-3,2e-3 train.weight_decay=0,0.1 hydra.sweeper.tune=[lr,train.weight_decay]",
]


@pytest.mark.parametrize("command", GOOD)
def test_a_command_that_docs_and_scripts_rely_on_is_accepted(command, tmp_path):
    existing = tmp_path / "reviews.csv"
    existing.touch()
    assert mistakes(*command.replace("EXISTING", str(existing)).split()) == []


# --- what is wrong

BAD = {
    "trian.steps=3": "There is no key 'trian.steps'. Did you mean 'train.steps'?",
    "vraiant=dora": "There is no key 'vraiant'. Did you mean 'variant'?",
    "steps=3": "Did you mean 'train.steps'?",
    "rank=8": "Did you mean 'r'?",
    "learning_rate=1e-3": "Did you mean 'lr'?",
    "xyzzy=1": "Known: r, alpha, targets",
    "variant=dorra": "There is no variant 'dorra'. Did you mean 'dora'? Known: adalora, bitfit, ",
    "variant=null": "There is no variant 'null'",
    "train=fast": "There is no file of training settings 'fast'. Known: default",
    "model=bert-base-cased": "model=hf model.name=bert-base-cased",
    "model=roberta-base": "Did you mean 'roberta_base'?",
    "dataset=reviews.csv": "dataset=csv dataset.path=reviews.csv",
    "dataset=someone/table": "dataset=hub dataset.name=someone/table.",
    "+experiment=noise": "Did you mean 'noise_floor'?",
    "+experiment=noise_floor,default_lr": "one name per command",
    "hydra/launcher=locall": "Did you mean 'local'?",
    "hydra.launcher=3": "hydra.launcher is a group of keys: write hydra/launcher=<name>",
    "hydra/launcher=slurm hydra.launcher=null": "hydra.launcher is a group of keys",
    "hydra.sweeper=fair": "write hydra/sweeper=<name>",
    "hydra/launcher=3": "hydra/launcher takes a name, not 3",
    "repeat=true,false": "one value per command",
    "hydra/sweeper=fare": "Did you mean 'fair'?",
    "+experiment=default_lr hydra/sweeper=grid": "leave hydra/sweeper=grid out",
    "hydra/sweeper=fair hydra.sweeper.tune_seed=[1]": "Did you mean 'tune_seeds'?",
    "hydra/sweeper=fair hydra.sweeper.tune_seeds=1,2": "written hydra.sweeper.tune_seeds=[1,2]",
    "hydra/sweeper=fair hydra.sweeper.tune_seeds=[-1]": "a list of different seeds, [100,101], not [-1]",
    "hydra/sweeper=fair hydra.sweeper.factors=[1,0]": "different numbers above 0, [0.25,0.5,1,2,4], not",
    "hydra/sweeper=fair hydra.sweeper.extensions=-1": "a whole number of at least 0, not -1",
    "hydra/sweeper=fair hydra.sweeper.tune=[seed]": "lr, train.<key> or variant.<key>",
    "hydra/sweeper=fair seed=range(99,102)": "both hold 100,101",
    "hydra.sweeper.tune_seeds=[1]": "add that, or leave it out",
    "r=abc": "r takes a whole number of at least 1, not 'abc'.",
    "r=": "not nothing",
    "r=0": "of at least 1, not 0",
    "r=8.5": "a whole number of at least 1, not 8.5",
    "r=true": "not true",
    "r=4,0,8": "not 0",
    "alpha=-1": "alpha takes a number above 0, not -1",
    "alpha=nan": "not nan",
    "lr=0": "lr takes a number above 0, or null, not 0",
    "seed=-1": "not -1",
    "train.batch_size=0": "of at least 1, not 0",
    "train.warmup=2": "a number from 0 to 1, not 2",
    "train.beta2=1": "of at least 0 and below 1, not 1",
    "train.precision=fp16": "one of fp32, bf16, auto, not 'fp16'. Did you mean",
    "train.gradient_checkpointing=yes": "true or false, not 'yes'",
    "targets=qvv": "Did you mean 'qv'?",
    "targets=query": "Did you mean targets=[query]?",
    "targets=[]": "not []",
    "targets=re:(": "unterminated",
    "study=a/b": "name of a folder",
    "study=..": "name of a folder",
    "study=a,b": "one value per command",
    "tracker=none,wandb": "one value per command",
    "workers=0": "auto or a whole number",
    "time_limit=0": "time_limit takes a number above 0, or null, not 0",
    "time_limit=1,2": "one value per command",
    "keep_going=1": "true or false, not 1",
    "checkpoint_steps=0": "of at least 1, or null, not 0",
    "checkpoint_seconds=-1": "of at least 0, not -1",
    "timelimit=3": "Did you mean 'time_limit'?",
    "r=1000": "r can be at most 384",
    "variant=adalora r=300": "starts r=300 at rank 450, so r can be at most 256",
    "variant=oft r=1": "a block of OFT takes r=2 or more",
    "variant=boft r=8 variant.butterfly=9": "minilm's q has 384: take 1 to 6",
    "train.steps=3 train.epochs=2": "give one of them",
    "train.micro_batch_size=5": "1, 2, 4, 8, 16",
    "variant.controller=adalora_budget": "set variant.delta=adalora or variant.controller=none",
    "variant.rank_pattern=4": "variant.rank_pattern '4' cannot be read: write patterns of module names and",
    'variant.alpha_pattern="query=nan"': "variant.alpha_pattern 'query=nan' cannot be read",
    "variant.delta=dorra": "not 'dorra'. Did you mean 'dora'?",
    "variant=vera variant.controller=adalora_budget": "variant.delta=adalora or variant.controller=none",
    "variant=vera variant.scaling=alpha_over_r": "variant.scaling takes only none, not 'alpha_over_r'",
    'variant=vera variant.alpha_pattern="query=4"': "variant=vera has no alpha",
    "variant=gralora variant.blocks=3": "does not divide r=8: take 1, 2, 4, 8, or r=9",
    "variant=fourierft variant.n_per_r=0": "variant.n_per_r takes a whole number of at least 1",
    "variant.storage=int8": "one of fp32, bf16, nf4, fp4, int4, or null, not 'int8'",
    "variant=full variant.storage=nf4": "nf4 cannot be trained",
    "variant=full variant.grouping=lora_plus": "has no adapters",
    "variant=probe variant.dropout=0.1": "variant=probe has no key variant.dropout (adalora, ",
    "variant=lora,loraplus variant.lr_ratio=4,16": "variant=lora has no key variant.lr_ratio (loraplus has",
    "variant=loraplus variant.lr_rato=4": "Did you mean 'variant.lr_ratio'?",
    "variant=loraplus variant.lr_ratio=0.5": "from 1 to 1000, not 0.5",
    "variant.lr=0.1": "write lr=... instead",
    "variant.head_lr=0.1": "write train.head_lr=... instead",
    "variant.r=4": "Did you mean 'r'?",
    "variant.paper=mine": "cannot be set",
    "tracker.mode=offline": "tracker=none has no key tracker.mode (wandb has it)",
    "tracker=wandb tracker.mode=of": "one of online, offline, disabled",
    "dataset.path=a.csv": "dataset=scipy_topics has no key dataset.path",
    "dataset=csv": "dataset.path=<file>",
    "dataset.metric=acuracy": "there is no such metric. Did you mean 'accuracy'?",
    "dataset=csv dataset.path=nowhere.csv": "there is no such file",
    "model=hf": "model.name=roberta-base",
    "r=4 r=8": "r is given twice, r=4 and r=8",
    "dora": "'dora' is not of the form key=value. Did you mean variant=dora?",
    "~train.steps": "set it to null",
    "lr=interval(0,1)": "range(from,to,step)",
    "seed=range(0,5": "not 'range(0,5'",
    "a=b=c": "There is no key 'a'",
    "dataset@second=csv": "Did you mean 'dataset'?",
}


@pytest.mark.parametrize("command", BAD)
def test_a_mistake_is_one_sentence_that_helps(command):
    (sentence,) = mistakes(*command.split())
    assert BAD[command] in sentence


def test_every_mistake_is_told_at_once():
    command = (
        "trian.steps=3 variant=dorra,lora r=abc,4,0 alpha=-1 variant.lr_ratio=4 dora train.micro_batch_size=3"
    )
    assert len(mistakes(*command.split())) == 8


def test_a_typo_does_not_hide_an_impossible_combination():
    typo, combination = mistakes("variant=full", "variant.storage=nf4", "trian.steps=3")
    assert "trian" in typo
    assert "nf4" in combination


def test_ranks_are_held_against_the_layers_that_are_adapted():
    wide = {"linear": {**SQUARE, "v": (384, 64)}}
    check = lambda *words: reading.understood(words, Conf(CONF), dimensions=lambda _: wide)[1]  # noqa: E731
    assert check("r=64", "targets=qv") == []
    assert "at most 64" in check("r=65", "targets=qv")[0]
    assert check("r=65", "targets=mlp") == []
    assert check("variant=full", "r=1000") == []


def test_a_model_that_is_not_there_is_told_with_the_rest():
    def missing(spec):
        raise UserError(f"no folder {spec.model_options['path']}")

    _, told = reading.understood(["model.path=gone", "r=0"], Conf(CONF), dimensions=missing)
    assert told == ["r takes a whole number of at least 1, not 0.", "no folder gone"]


def test_an_experiment_is_checked_like_a_command(tmp_path):
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "conf/experiment/mine.yaml").write_text(
        "# @package _global_\ntrain: {stpes: 3}\nalpha: 0\n"
        "hydra: {sweeper: {params: {r: '4,0', vraiant: dora}}}\n"
    )
    told = " ".join(mistakes("+experiment=mine", conf=tmp_path / "conf"))
    for part in ("train.stpes", "alpha takes", "r takes", "vraiant"):
        assert part in told


def test_a_new_variant_is_known_because_its_file_exists(tmp_path):
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "conf/variant/mine.yaml").write_text(
        "# Mine.\ndefaults: [dora, _self_]\nname: mine\ngamma: 0.5\nranges: {gamma: [0, 1]}\n"
    )
    conf = tmp_path / "conf"
    assert mistakes("variant=mine", "variant.gamma=0.1", conf=conf) == []
    assert "from 0 to 1" in mistakes("variant=mine", "variant.gamma=2", conf=conf)[0]
    assert "(mine has it)" in mistakes("variant=lora", "variant.gamma=0.1", conf=conf)[0]
    assert "variant.gamma=0.5" in page(conf)


@pytest.mark.parametrize(
    ("text", "told"), [("name: [", "cannot be read as YAML"), ("name: mine", "has no method, lr, head_lr")]
)
def test_a_broken_file_is_named(text, told, tmp_path):
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "conf/variant/mine.yaml").write_text(text)
    with pytest.raises(UserError, match=told):
        mistakes("variant=mine", conf=tmp_path / "conf")


# --- what Hydra gets


def prepared(words):
    return reading.read(words.split(), CONF, dimensions=None).for_hydra()


def words_of(command):
    return {word for word in prepared(command) if "=" in word}


def test_one_run_takes_the_same_way_as_many():
    assert prepared("r=4") == ["--multirun", "r=4"]
    assert prepared("-m r=4") == prepared("--run r=4") == ["--multirun", "r=4"]
    assert prepared("--cfg job r=4") == prepared("-m r=4 --cfg job") == ["--cfg", "job", "r=4"]


def test_hydra_composes_the_first_run_alone():
    assert words_of("-m variant=dora,lora r=4,8 seed=range(3,5) workers=2") == {
        "variant=dora", "r=4", "seed=3", "workers=2",
    }  # fmt: skip
    assert words_of("--cfg job variant=qlora,probe variant.double_quant=false") == {
        "variant=qlora", "variant.double_quant=false",
    }  # fmt: skip


def test_hydra_takes_the_sweeper_that_an_experiment_names():
    assert prepared("+experiment=default_lr variant=lora r=4")[-1] == "hydra/sweeper=fair"
    assert prepared("+experiment=default_lr hydra/sweeper=fair").count("hydra/sweeper=fair") == 1


def test_options_may_stand_anywhere(tmp_path):
    given = f"r=4 -m seed=1 --config-dir {tmp_path}"
    assert prepared(given) == ["--multirun", "--config-dir", str(tmp_path), "r=4", "seed=1"]


def test_a_length_puts_the_other_one_aside():
    assert prepared("train.epochs=3")[1:] == ["train.epochs=3", "train.steps=null"]
    assert prepared("train.steps=3")[1:] == ["train.steps=3", "train.epochs=null"]
    assert prepared("train.epochs=null train.steps=7")[1:] == ["train.epochs=null", "train.steps=7"]


def test_what_is_meant_is_taken_as_it_is_meant():
    assert "+experiment=noise_floor" in prepared("experiment=noise_floor")
    assert prepared("++r=4")[1:] == ["r=4"]
    assert prepared(r"targets=re:.*\.(query|value)")[1:] == [r'targets="re:.*\.(query|value)"']


def test_another_configuration_is_read_as_hydra_reads_it(tmp_path):
    shutil.copytree(CONF, tmp_path / "conf")
    text = (CONF / "config.yaml").read_text().replace("r: 8 ", "r: 5 ")
    (tmp_path / "conf/other.yaml").write_text(text)
    flags = ["--config-path", str(tmp_path / "conf"), "--config-name", "other"]
    made = reading.read([*flags, "seed=2"], CONF, dimensions=None)
    assert [(spec.r, spec.seed) for spec in made.runs] == [(5, 2)]
    assert made.for_hydra() == ["--multirun", *flags, "seed=2"]
    with pytest.raises(UserError, match="There is no folder nowhere"):
        prepared("--config-path nowhere")


@pytest.mark.parametrize("words", ["--rank=8", "--rank 8"])
def test_an_unknown_option_is_a_mistake(words):
    with pytest.raises(UserError, match=r"1 mistake in [^`]*Keys are written without dashes: rank=8"):
        prepared(words)


# --- a key that takes a text gets what was typed


@pytest.mark.parametrize("text", ["2024_01_15", "007", "1e3", "true", "1.50", "0x1F", "nan", "-3"])
def test_a_text_is_kept_as_it_was_typed(text):
    csv = f"dataset=csv dataset.path={ROOT / 'README.md'} dataset.label={text} dataset.text={text},b"
    made = reading.read([*csv.split(), f"tracker.project={text}", "tracker=wandb"], CONF, dimensions=None)
    assert [spec.dataset_options["text"] for spec in made.runs] == [text, "b"]
    assert {spec.dataset_options["label"] for spec in made.runs} == {text}
    assert {spec.tracker["project"] for spec in made.runs} == {text}


@pytest.mark.parametrize("text", ["2024_01_15", "007", "1e3", "true", "inf"])
def test_a_study_is_called_what_was_typed_in_hydra_too(text):
    made = reading.read([f"study={text}"], CONF, dimensions=None)
    assert [spec.study for spec in made.runs] == [text]
    [word] = (word for word in made.for_hydra() if word.startswith("study="))
    assert parse(word).values == (text,)


@pytest.mark.parametrize(
    ("word", "read"),
    [
        ("targets=[0,1e3,query]", ("0", "1e3", "query")),
        ("targets=[007],[qkv]", ("007",)),
        ("targets=choice([08],qv)", ("08",)),
        ("model.revision=1e10", "1e10"),
        ("variant.layers=0,2", "0"),
        ("variant.layers='0,2'", "0,2"),
    ],
)
def test_texts_in_lists_and_sweeps_are_kept_too(word, read):
    spec = reading.read([word, "model=hf", "model.name=a/b"], CONF, dimensions=None).runs[0]
    assert read in (spec.targets, spec.model_options.get("revision"), spec.options.get("layers"))


def test_numbers_stay_numbers_and_null_stays_null():
    spec = reading.read(["r=1_6", "alpha=1e1", "dataset.max_length=64"], CONF, dimensions=None).runs[0]
    assert (spec.r, spec.alpha, spec.dataset_options["max_length"]) == (16, 10.0, 64)
    assert reading.read(["variant.layers=null"], CONF, dimensions=None).runs[0].options.get("layers") is None
