"""Whether a model's files are whole and the right ones. No torch, no transformers."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.models._content import content_of, file_sha256

PICKLES = ("pytorch_model*.bin",)
# Files of vocabularies. A tokenizer of bytes or characters has none, but tokenizer_config.json names it.
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
)
_WIDE = ("F64", "F32", "F16", "BF16")  # types of weights as they were trained


def check(folder: Path, options: Mapping[str, Any], *, name: str, file: Path | None = None) -> str:
    """Prove that a model's files are whole and the right ones.

    Args:
        folder: Where they are.
        options: The model's options; `sha256` is what the weights must be, `allow_pickle` lets pickles pass.
        name: The model's name on the command line, for the errors.
        file: The one file that the folder was made of, if it was; the model is known by that.

    Returns:
        The SHA-256 of the weights (of a file, or over the hashes of several).
    """
    config(folder)
    check_planned(file or folder, options.get("content"), name)
    if not has_vocabulary(folder) and not (folder / "tokenizer_config.json").is_file():
        raise no_tokenizer(folder, name)
    weights = [file] if file else weight_files(folder, options, name)
    for part in weights:
        _check_whole(part)
    hashes = [file_sha256(part) for part in weights]
    found = hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    if expected := options.get("sha256"):
        check_published(weights[0], found, expected, name)
    return found


def check_published(file: Path, found: str, expected: str, name: str) -> None:
    """Refuse weights with another SHA-256 than the pinned one."""
    if found == expected:
        return
    place = file if file.suffix == ".gguf" else file.parent
    raise UserError(
        f"model={name} is refused: {file} is not the published file. Its SHA-256 is {found}, the published "
        f"one is {expected}. Remove that copy and install or download it again; to train on other weights "
        f"on purpose: model=hf model.path={place}"
    )


def has_vocabulary(folder: Path) -> bool:
    """Whether there is a file that may be a tokenizer's vocabulary."""
    return any((folder / tokenizer).is_file() for tokenizer in _TOKENIZERS)


def no_tokenizer(folder: Path, name: str) -> UserError:
    """What to say of a folder without one."""
    return UserError(
        f"model={name}: {folder} has no tokenizer (none of {', '.join(_TOKENIZERS)}). Save it beside the "
        "weights: AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
    )


def check_planned(place: Path, planned: str | None, name: str) -> None:
    """Refuse a folder, or a file, that holds another model than when the run was planned.

    Studies of older versions know a folder by 16 digits, of samples; nothing can be compared with those.
    """
    if planned is None or len(planned) < 64:
        return
    found = content_of(place)
    if found != planned:
        raise UserError(
            f"model={name}: {place} no longer holds what this run was planned with (its files hashed to "
            f"{planned[:12]}, now to {found[:12]}). Restore them, or give the command again: what is there "
            "now is another model, and its runs get names of their own"
        )


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
            _check_wide(value, folder)
            return value
        reason = "it names no model_type"
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise UserError(f"{path} cannot be used: {reason}. Restore it from where the model came from")


def _check_wide(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse weights that are quantised already, by what config.json says of them."""
    parts = (config, *(part for part in config.values() if isinstance(part, dict)))
    for part in parts:
        facts = part.get("quantization_config") or part.get("compression_config")
        if isinstance(facts, dict):
            bits = 4 if facts.get("load_in_4bit") else 8 if facts.get("load_in_8bit") else facts.get("bits")
            known = [str(facts.get("quant_method") or ""), f"{bits} bits" if bits else ""]
            raise UserError(_quantised(folder, ", ".join(filter(None, known))))


def _quantised(place: Path, how: str) -> str:
    return (
        f"{place} holds weights that are quantised already{f' ({how})' if how else ''}, and a base is "
        "quantised here as it is loaded, so that what it lost is known: give the 16-bit original that it was "
        "made from (variant=qlora keeps that in 4 bits)"
    )


def weight_files(folder: Path, options: Mapping[str, Any], name: str) -> list[Path]:
    """The files of the weights."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        parts = _parts(index)
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


def _parts(index: Path) -> list[str]:
    """The names of the files that an index of weights names."""
    try:
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if parts and all(Path(part).name == part and part.endswith(".safetensors") for part in parts):
            return sorted(parts)
        reason = f"its weight_map names {', '.join(map(str, parts)) or 'no files'}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"it holds no weight_map ({type(error).__name__})"
    raise UserError(
        f"{index} is damaged: {reason}, where the names of the .safetensors files beside it should be. "
        "Download it again"
    )


def _check_whole(file: Path) -> None:
    """Compare a safetensors file with the length that its own header gives."""
    if file.suffix != ".safetensors":
        return
    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            header: Any = json.loads(stream.read(length)) if 2 <= length <= min(size, 100_000_000) else None
            tensors = {name: t for name, t in header.items() if name != "__metadata__"}
            needed = 8 + length + max((t["data_offsets"][1] for t in tensors.values()), default=0)
            packed = [n for n, t in tensors.items() if n.endswith("weight") and t["dtype"] not in _WIDE]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{file} is damaged: it is no safetensors file ({size} bytes). Delete it and download it "
                "again"
            ) from error
    if packed:
        raise UserError(_quantised(file, f"{packed[0]} is {tensors[packed[0]]['dtype']}"))
    if size != needed:
        raise UserError(
            f"{file} is damaged: it has {size} bytes where its header asks for {needed}, so a download or "
            "copy was cut short. Delete it and download it again"
        )


def _contents(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return f"It holds: {', '.join(names[:8]) or 'nothing'}. Give the folder that save_pretrained wrote"


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:300]
