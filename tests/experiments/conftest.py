"""What tests of experiments share: tiny models on disk, and a cache of their own."""

import itertools
import json
import os
import string
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Whatever is cached during the tests goes away with them."""
    before = os.environ.get("ABLORA_CACHE")
    os.environ["ABLORA_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["ABLORA_CACHE"]
    else:
        os.environ["ABLORA_CACHE"] = before


AXES = {
    "delta": "lora", "scaling": "alpha_over_r", "storage": "fp32", "grouping": "uniform",
    "controller": "none",
}  # fmt: skip
PRELOADED = """
import json, os, signal, sys

import evaluate, torch, wandb
from transformers import BertModel

from experiments.training import execute

torch.set_num_threads(1)
for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if pid == 0:
        signal.alarm(order["seconds"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (1, 2):
            os.dup2(os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        os.environ.clear()
        os.environ.update(order["environment"])
        sys.argv = ["-c", *order["arguments"]]
        exec(order["script"], {"__name__": "__main__"})
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture(scope="session")
def preloaded(tmp_path_factory):
    """Python that has imported what a run imports: `preloaded(script, *arguments)` runs a script in its fork.

    Gives the exit code and what was printed. SIGALRM kills a script that does not end within `seconds`, which
    is less than a test may take: no answer is left for the next one.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    folder, numbers = tmp_path_factory.mktemp("preloaded"), itertools.count()

    def run(script, *arguments, seconds=400):
        output = folder / str(next(numbers))
        order = {
            "script": script, "arguments": [*map(str, arguments)], "seconds": seconds, "output": str(output),
            "environment": dict(os.environ),
        }  # fmt: skip
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        code = process.stdout.readline()
        assert code, "the process that forks has died"
        return int(code), output.read_text()

    with subprocess.Popen([sys.executable, "-c", PRELOADED], env=environment, **pipes) as process:
        yield run
        process.stdin.close()


def _toy(path):
    rows = (f"{'good' if i % 3 else 'bad'} {i},{'yes' if i % 3 else 'no'}" for i in range(90))
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def toy_csv(tmp_path):
    """The file of a small table: 90 short texts of two labels."""
    return _toy(tmp_path / "toy.csv")


@pytest.fixture
def toy_spec(toy_csv, tiny_bert):
    """A spec of LoRA on that table: `toy_spec(axes={"delta": "dora"}, train={"steps": 3}, seed=1)`.

    Axes and settings of the training go beside the usual ones, all else in their place.
    """
    from experiments.spec import RunSpec, Train

    def made(*, axes=(), train=(), **changes):
        usual = {
            "study": "toy", "variant": "lora", "method": "adapters", "r": 2, "alpha": 4.0, "targets": "qv",
            "options": {"dropout": 0.1}, "model": "hf", "model_options": {"path": str(tiny_bert)},
            "dataset": "csv", "lr": 0.02, "seed": 0,
            "dataset_options": {"path": str(toy_csv), "text": "text", "label": "label", "max_length": 16},
        }  # fmt: skip
        settings = {"steps": 12, "batch_size": 8, "head_lr": 0.02, **dict(train)}
        return RunSpec(**{**usual, **changes}, axes={**AXES, **dict(axes)}, train=Train(**settings))

    return made


def _wordpiece():
    """A tokenizer like BERT's: letters, with [CLS] and [SEP] around the text."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    signs = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    words = [*special, *signs, *(f"##{sign}" for sign in signs[:36])]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(
        zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _bytes(*, end: str, start: str | None = None):
    """A tokenizer like GPT-2's or Llama's, one token per byte; `start` is written before every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = [token for token in (start, end) if token]
    alphabet = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    if start:
        tokenizer.post_processor = processors.TemplateProcessing(f"{start} $A", special_tokens=[(start, 0)])
    names = {"bos_token": start or end, "eos_token": end}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _saved(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Saves a random model of transformers, with two layers of width 24 where its sizes have these names."""
    import torch
    import transformers

    def made(kind, model, tokenizer, **sizes):
        config = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer), **sizes)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            folder = tmp_path_factory.mktemp(f"tiny_{kind.lower()}")
            return _saved(folder, getattr(transformers, f"{kind}{model}")(config), tokenizer)

    return made


SIZES = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}


@pytest.fixture(scope="session")
def tiny_bert(tiny):
    """The folder of a random BERT backbone: 2 layers, width 24, 64 positions, dropout 0.1 in its config."""
    more = {"num_attention_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2}
    return tiny("Bert", "Model", _wordpiece(), **SIZES, **more)


@pytest.fixture(scope="session")
def tiny_modernbert(tiny):
    """The folder of a random ModernBERT backbone, whose classifier has a norm in its head."""
    tokenizer = _wordpiece()
    special = {f"{kind}_token_id": tokenizer.pad_token_id for kind in ("pad", "bos", "eos", "cls", "sep")}
    return tiny("ModernBert", "Model", tokenizer, **SIZES, num_attention_heads=2, **special)


@pytest.fixture(scope="session")
def tiny_gpt2(tiny):
    """The folder of a random GPT-2: 2 layers, width 24, 96 positions, no pad token."""
    sizes = {"n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 96, "bos_token_id": 0, "eos_token_id": 0}
    return tiny("GPT2", "LMHeadModel", _bytes(end="<|endoftext|>"), **sizes)


@pytest.fixture(scope="session")
def tiny_llama(tiny):
    """The folder of a random Llama: 2 layers, width 24, 4 heads on 2 keys, a chat template."""
    tokenizer = _bytes(start="<s>", end="</s>")
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}"
        "{{ eos_token }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    more = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    return tiny("Llama", "ForCausalLM", tokenizer, **SIZES, **more, bos_token_id=0, eos_token_id=1)


@pytest.fixture(scope="session")
def tiny_t5(tiny):
    """The folder of a random T5: 2 layers, width 24, a token per byte."""
    sizes = {"d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 2, "num_heads": 4}
    special = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 0}
    return tiny("T5", "ForConditionalGeneration", _bytes(end="</s>"), **sizes, **special)


@pytest.fixture
def cells_of():
    """The specs of a command's words; nothing may be wrong with them."""
    from experiments.config.reading import read

    folder = Path(__file__).resolve().parents[2] / "conf"

    def cells(command):
        return read(command.split(), folder, dimensions=None).runs

    return cells


@pytest.fixture
def spec_of():
    """What loading reads of a spec, built by `spec_of(folder, dataset="csv", path=...)`."""

    def build(model=None, *, dataset="scipy_topics", base_dropout=0.0, **options):
        return SimpleNamespace(
            model="hf",
            model_options={
                "name": None,
                "revision": None,
                "path": model and str(model),
                "allow_pickle": False,
            },
            dataset=dataset,
            dataset_options={"max_length": None, **options},
            train=SimpleNamespace(base_dropout=base_dropout),
        )

    return build


def _louder(folder, root):
    """A copy of a language model with matrices ten times larger: it writes more than one letter for ever."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= 10
    return _saved(root / folder.name, model, AutoTokenizer.from_pretrained(folder))


class Quiet:
    """A display that shows nothing."""

    def run_started(self, run_id, steps, done=0): ...
    def step(self, run_id, step, loss): ...
    def note(self, text): ...


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_bert, tiny_gpt2, tiny_llama):
    """The folder of a completed run of a variant, trained once: `finished("dora", model="gpt2", r=4)`.

    BERT classifies rows of a small table, the others complete short prompts.
    """
    from experiments.config.groups import Conf
    from experiments.config.resolve import resolve
    from experiments.record import RunFolder
    from experiments.tracking import make
    from experiments.training.execute import execute
    from experiments.training.run_state import Run

    conf = Conf(Path(__file__).parents[2] / "conf")
    root, done = tmp_path_factory.mktemp("finished"), {}
    models = {"bert": tiny_bert, "gpt2": _louder(tiny_gpt2, root), "llama": _louder(tiny_llama, root)}
    _toy(root / "toy.csv")
    pairs = ({"prompt": f"say {'ab'[i % 2]} {i}", "completion": "ab"[i % 2] * 3} for i in range(60))
    (root / "toy.jsonl").write_text("\n".join(map(json.dumps, pairs)) + "\n")

    def made(variant, *, model="bert", r=2, targets="qv", lr=0.02, **options):
        key = (variant, model, r, targets, lr, *options.items())
        if key in done:
            return done[key]
        kind, file = ("csv", "toy.csv") if model == "bert" else ("instruct", "toy.jsonl")
        choices = {"variant": variant, "model": "hf", "dataset": kind, "train": "default", "tracker": "none"}
        values = {
            "r": r, "alpha": 4.0, "targets": targets, "study": "finished", "lr": lr, "variant": options,
            "model": {"path": str(models[model])}, "dataset": {"path": str(root / file), "max_length": 24},
            "train": {"steps": 12, "batch_size": 8, "head_lr": 0.02},
        }  # fmt: skip
        spec = resolve(conf.compose(choices, values=values), choices=choices)
        name = "-".join(str(part) for part in (variant, model, f"r{r}", len(done)))
        run = Run(spec, name, RunFolder(root / "study" / name), make({"name": "none"}))
        (record,) = execute([run], display=Quiet())
        assert record["status"] == "completed"
        done[key] = run.folder.path
        return done[key]

    return made
