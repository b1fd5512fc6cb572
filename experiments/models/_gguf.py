"""A GGUF file as a model's folder: read and dequantised by transformers, once for each content.

What transformers makes of the file (config, tokenizer, weights in fp32) is saved in the cache, so that all
else reads a model like any other. Opening a file of 100 MB takes 20 seconds the first time.
"""

import re
from collections import Counter
from pathlib import Path

from experiments import cache
from experiments.errors import UserError
from experiments.files import read_json, replacing_folder, write_json
from experiments.models._content import file_sha256

_VERSION = "1"  # of what is made of a file; a change needs a new one
_FACTS = "gguf.json"  # what was made of which file
REMEDY = "pip install 'ablora[gguf]', which brings gguf and accelerate"


def is_gguf(file: Path) -> bool:
    """Whether a file begins as GGUF files do."""
    with file.open("rb") as stream:
        return stream.read(4) == b"GGUF"


def folder_of(file: Path) -> tuple[Path, str]:
    """The folder that a GGUF file was turned into, and in words what its weights were stored as.

    Raises:
        UserError: it is no GGUF file, is damaged, is of an architecture that transformers does not read, or
            the packages that read it are missing.
    """
    if not is_gguf(file):
        raise UserError(
            f"{file} is no GGUF file (it does not begin with the letters GGUF). Give a folder that "
            "save_pretrained wrote, or download the .gguf file again"
        )
    folder = cache.folder() / "gguf" / f"{file_sha256(file)[:32]}-{_VERSION}"
    facts = _known(folder)
    if facts is None:
        _convert(file, folder)
        facts = _known(folder)
        if facts is None:
            raise UserError(
                f"{folder} was written and cannot be read again. Set ABLORA_CACHE to another disk"
            )
    return folder, facts["stored"]


def _known(folder: Path) -> dict[str, str] | None:
    """The facts of a folder that is whole."""
    try:
        facts = read_json(folder / _FACTS)
        whole = all(file_sha256(folder / name) == found for name, found in facts["sha256"].items())
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return facts if whole else None


def _convert(file: Path, folder: Path) -> None:
    from transformers.utils import is_accelerate_available, is_gguf_available

    if not (is_gguf_available() and is_accelerate_available()):
        raise UserError(f"{file} is a GGUF file, and what reads it is not installed: {REMEDY}")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with replacing_folder(folder) as temporary:
        try:
            stored = _stored(file)
            place = {"gguf_file": file.name, "local_files_only": True}
            model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **place)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **place)
        except Exception as error:  # readers of any format may raise anything on a damaged file
            reason = " ".join(str(error).split()).rstrip(".")[:300]
            raise UserError(
                f"{file} cannot be read as a GGUF model: {type(error).__name__}: {reason}. Download it "
                "again, or give the model's folder of safetensors"
            ) from error
        del model.config.quantization_config  # to all that follows it is a model like any other
        model.hf_quantizer = None
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        _remove_strays(temporary / "tokenizer.json", model.config.vocab_size)
        sha256 = {path.name: file_sha256(path) for path in sorted(temporary.iterdir())}
        write_json(temporary / _FACTS, {"file": file.name, "stored": stored, "sha256": sha256})


def _remove_strays(file: Path, size: int) -> None:
    """Take out what transformers adds to every vocabulary of bytes: GPT-2's own special token."""
    content = read_json(file)
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < size]
    write_json(file, content, indent=None)


def _stored(file: Path) -> str:
    """In words how the weights are stored: "4 bits (Q4_1, Q8_0, F32)", the first by far the most."""
    from gguf import GGUFReader

    sizes: Counter[str] = Counter()
    for tensor in GGUFReader(file).tensors:
        sizes[tensor.tensor_type.name] += int(tensor.n_elements)
    types = [name for name, _ in sizes.most_common()]
    bits = re.search(r"\d+", types[0])
    return f"{bits.group() if bits else '?'} bits ({', '.join(types)})"
