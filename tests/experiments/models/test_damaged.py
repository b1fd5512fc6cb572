"""Damaged model folders: what reads them says one sentence, whatever it is that is wrong."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from experiments import models
from experiments.errors import UserError


def written(name, content):
    """Put this in the place of a file."""

    def damage(folder):
        (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())

    return damage


def cut(name, share):
    """Leave the first part of a file."""
    return lambda folder: written(
        name, (folder / name).read_bytes()[: int(share * (folder / name).stat().st_size)]
    )(folder)


def edited(name, **changes):
    """Change what a file of JSON holds."""
    return lambda folder: written(name, json.loads((folder / name).read_text()) | changes)(folder)


def gone(name):
    """Remove a file."""
    return lambda folder: (folder / name).unlink()


def a_folder(name):
    """Put a folder in the place of a file."""
    return lambda folder: ((folder / name).unlink(), (folder / name).mkdir())


def sharded(weight_map):
    """Weights in a file that an index names: by a function of the names of the tensors, or as it is."""

    def damage(folder):
        names = list(load_file(folder / "model.safetensors"))
        (folder / "model.safetensors").rename(folder / "part.safetensors")
        content = weight_map(names) if callable(weight_map) else weight_map
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": content})
        )

    return damage


def header(change):
    """Change the first tensor's entry in the header of the weights."""

    def damage(folder):
        file = folder / "model.safetensors"
        raw = file.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        entries = json.loads(raw[8 : 8 + length])
        first = next(name for name in entries if name != "__metadata__")
        entries[first] = change(entries[first])
        new = json.dumps(entries).encode()
        file.write_bytes(len(new).to_bytes(8, "little") + new + raw[8 + length :])

    return damage


DAMAGES = {
    "config gone": gone("config.json"),
    "config a folder": a_folder("config.json"),
    "config in another encoding": written("config.json", b"\xff\xfe{}"),
    "config a list": written("config.json", []),
    "config without end": written("config.json", b"[" * 100_000),
    "config of another kind": edited("config.json", model_type="gpt2"),
    "config of no kind": edited("config.json", model_type=3),
    "config with words for numbers": edited("config.json", hidden_size="wide", num_attention_heads="two"),
    "config with other heads": edited("config.json", num_attention_heads=5),
    "config without layers": edited("config.json", num_hidden_layers=-1),
    "config with a list for a width": edited("config.json", intermediate_size=[40, 40]),
    "config with no vocabulary": edited("config.json", vocab_size=0),
    "weights empty": written("model.safetensors", b""),
    "weights cut in the header": cut("model.safetensors", 0.05),
    "weights cut at the end": cut("model.safetensors", 0.99),
    "weights a folder": a_folder("model.safetensors"),
    "weights without places": header(lambda entry: {"dtype": "F32", "shape": entry["shape"]}),
    "weights with a word for a place": header(lambda entry: entry | {"data_offsets": "x"}),
    "weights with an entry that is a list": header(lambda entry: []),
    "weights of an unknown type": header(lambda entry: entry | {"dtype": "Q9"}),
    "weights of another shape": header(lambda entry: entry | {"shape": [1]}),
    "index without files": sharded({}),
    "index that is a list": sharded([]),
    "index with numbers": sharded(lambda names: dict.fromkeys(names, 1)),
    "index of a missing shard": sharded(lambda names: dict.fromkeys(names, "model-2.safetensors")),
    "index that leads elsewhere": sharded(lambda names: dict.fromkeys(names, "../part.safetensors")),
    "tokenizer gone": gone("tokenizer.json"),
    "tokenizer cut": cut("tokenizer.json", 0.5),
    "tokenizer of another form": edited("tokenizer.json", model={"type": "Unheard"}),
    "tokenizer settings a list": written("tokenizer_config.json", []),
    "tokenizer without room": edited("tokenizer_config.json", model_max_length="long"),
    "tokenizer settings garbage": written("tokenizer_config.json", b"\xff\x00"),
}


@pytest.mark.parametrize(("base", "kind"), [("tiny_bert", "classification"), ("tiny_llama", "causal")])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_model_is_a_sentence(base, kind, damage, tmp_path, spec_of, request):
    folder = shutil.copytree(request.getfixturevalue(base), tmp_path / "model")
    damage(folder)
    for ask in (models.dimensions, lambda spec: models.content_of(folder)):
        try:  # what plans a run reads little, and may find nothing wrong
            ask(spec_of(folder))
        except UserError as error:
            assert str(folder) in str(error)
    with pytest.raises(UserError, match=str(folder)):
        models.load(spec_of(folder), kind=kind, n_labels=2)
