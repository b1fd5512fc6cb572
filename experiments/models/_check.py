"""Whether a model's files are whole and the right ones. No torch, no transformers."""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from experiments import files
from experiments.errors import UserError

PICKLES = ("pytorch_model*.bin",)
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def check(folder: Path, options: Mapping[str, Any], *, name: str) -> str:
    """Prove that a model's files are whole and the right ones.

    Args:
        folder: Where they are.
        options: The model's options; `sha256` is what the weights must be, `allow_pickle` lets pickles pass.
        name: The model's name on the command line, for the errors.

    Returns:
        The SHA-256 of the weights (of a file, or over the hashes of several).
    """
    config(folder)
    if not any((folder / tokenizer).is_file() for tokenizer in _TOKENIZERS):
        raise UserError(
            f"model={name}: {folder} has no tokenizer (none of {', '.join(_TOKENIZERS)}). Save it beside the "
            "weights: AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
        )
    weights = weight_files(folder, options, name)
    for file in weights:
        _check_whole(file)
    hashes = [_sha256(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in weights]
    found = hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    expected = options.get("sha256")
    if expected and found != expected:
        raise UserError(
            f"model={name} is refused: {weights[0]} is not the published file. Its SHA-256 is {found}, the "
            f"published one is {expected}. Remove that copy and install or download it again; to train on "
            f"other weights on purpose: model=hf model.path={folder}"
        )
    return found


def config(folder: Path) -> dict[str, Any]:
    """The model's config.json."""
    path = folder / "config.json"
    if not path.is_file():
        adapter = (folder / "adapter_config.json").is_file()
        hint = (
            "It holds a PEFT adapter; give the base model it was trained on" if adapter else _contents(folder)
        )
        raise UserError(f"{folder} is no model folder: config.json is missing. {hint}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict) and "model_type" in value:
            return value
        reason = "it names no model_type"
    except ValueError as error:
        reason = str(error)
    raise UserError(f"{path} cannot be used: {reason}. Restore it from where the model came from")


def weight_files(folder: Path, options: Mapping[str, Any], name: str) -> list[Path]:
    """The files of the weights."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        missing = [part for part in parts if not (folder / part).is_file()]
        if missing:
            raise UserError(
                f"model={name}: {folder} lacks {', '.join(missing)}, which its index names. Download it again"
            )
        return [folder / part for part in parts]
    pickles = sorted(file for pattern in PICKLES for file in folder.glob(pattern))
    if pickles and options.get("allow_pickle"):
        return pickles
    if pickles:
        raise UserError(
            f"model={name}: {folder} has its weights only as {pickles[0].name}, a pickle, which can run any "
            "program when it is read. Convert it where you trust it "
            "(AutoModel.from_pretrained(...).save_pretrained(folder) writes safetensors), choose a revision "
            "that has model.safetensors, or accept it: model.allow_pickle=true"
        )
    raise UserError(f"model={name}: {folder} has no weights (model.safetensors). {_contents(folder)}")


def _check_whole(file: Path) -> None:
    """Compare a safetensors file with the length that its own header gives."""
    if file.suffix != ".safetensors":
        return
    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(length)) if 2 <= length <= min(size, 100_000_000) else None
        except ValueError:
            header = None
    if not isinstance(header, dict):
        raise UserError(
            f"{file} is damaged: it is no safetensors file ({size} bytes). Delete it and download it again"
        )
    needed = (
        8 + length + max((t["data_offsets"][1] for k, t in header.items() if k != "__metadata__"), default=0)
    )
    if size != needed:
        raise UserError(
            f"{file} is damaged: it has {size} bytes where its header asks for {needed}, so a download or "
            "copy was cut short. Delete it and download it again"
        )


@lru_cache(maxsize=64)
def _sha256(path: str, size: int, changed: int) -> str:
    """The hash of a file; size and time of change are there so that a changed file is read again."""
    return files.sha256(Path(path))


def _contents(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return f"It holds: {', '.join(names[:8]) or 'nothing'}. Give the folder that save_pretrained wrote"


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:300]
