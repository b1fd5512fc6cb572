"""--to merged: a plain checkpoint that transformers loads, with tokenizer and names of classes."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from experiments.artifacts import Base, Source
from experiments.errors import UserError
from experiments.export._fidelity import Reference, installed
from variants import Attached, merge

if TYPE_CHECKING:
    from experiments.export import Options

_PROBLEMS = {"multilabel": "multi_label_classification", "regression": "regression"}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def write(
    base: Base, source: Source, attached: Attached, folder: Path, options: "Options", reference: Reference
) -> dict[str, Any]:
    """Write the merged model and compare what transformers reads back with the run's own."""
    chosen = options.dtype or ("fp32" if source.storage == "fp32" else "bf16")  # 4 bits go to 16
    if options.requantise:
        _check_quantiser()
    merged = merge(attached, 0, dtype=torch.float32)
    reference.compare("merged, in float32", merged)
    merged = merge(attached, 0, dtype=TYPES[chosen])
    left_out = _dress(merged, base, source)
    merged.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    del merged
    said_left_out = {"generation_settings_left_out": left_out} if left_out else {}
    model = _load(folder, source).to(base.device)
    if options.requantise:
        facts = _requantise(folder, model, base, source, codes=options.requantise)
        said = f"transformers with this checkpoint, requantised to {options.requantise}"
        reference.compare(said, _load(folder, source, device_map={"": base.device}), exact=False, **facts)
        return {"dtype": options.requantise, "requantised_from": chosen, **said_left_out}
    said = f"transformers with this checkpoint, {chosen} weights"
    reference.compare(said, model, exact=chosen == "fp32")
    return {"dtype": chosen, **said_left_out}


def _dress(model: Any, base: Base, source: Source) -> list[str]:
    """The base's own settings, as its folder has them, and the classes: what training changed is undone.

    Returns:
        The names of generation settings that were left out because they are invalid.
    """
    from transformers import AutoConfig

    from experiments.models import find

    config = AutoConfig.from_pretrained(find(source.loading).folder, local_files_only=True)
    if source.kind == "classification":
        config.num_labels = source.outputs
        config.problem_type = _PROBLEMS.get(source.task, "single_label_classification")  # not as the base's
        for name in ("function_to_apply", "sentence_transformers"):  # how pipelines read the base's answers
            if hasattr(config, name):
                delattr(config, name)
    if source.labels:
        config.id2label = dict(enumerate(source.labels))
        config.label2id = {label: number for number, label in enumerate(source.labels)}
    config.pad_token_id = base.tokenizer.pad_token_id
    config.name_or_path = source.base_name
    model.config = config
    if getattr(model, "generation_config", None) is None:
        return []
    model.generation_config.use_cache = True
    model.generation_config, left_out = _valid(model.generation_config)
    return left_out


def _valid(given: Any) -> tuple[Any, list[str]]:
    """A generation config without the settings that transformers refuses to save, and the names of those.

    Published ones hold temperatures beside do_sample=false, and the like, which have no effect.
    """
    from transformers import GenerationConfig

    try:
        given.validate(strict=True)
        return given, []
    except ValueError:
        pass
    kept, left_out = GenerationConfig(), []
    modes = ("do_sample", "num_beams", "return_dict_in_generate")  # decide what others mean
    for name, value in sorted(given.to_diff_dict().items(), key=lambda item: item[0] not in modes):
        before = getattr(kept, name, None)
        setattr(kept, name, value)
        try:
            kept.validate(strict=True)
        except ValueError:
            setattr(kept, name, before)
            left_out.append(name)
    return kept, left_out


def _load(folder: Path, source: Source, **settings: Any) -> Any:
    import transformers

    classifies = source.kind == "classification"
    kind = "AutoModelForSequenceClassification" if classifies else "AutoModelForCausalLM"
    auto = getattr(transformers, kind)
    model = auto.from_pretrained(folder, dtype=torch.float32, local_files_only=True, **settings)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # a kernel of bitsandbytes for some processors:
            module.support_avx512bf16_for_cpu = False  # it computes in bf16, and only widths of 32, 64, ...
    return model


def _check_quantiser() -> None:
    if installed("accelerate") is None:
        raise UserError(
            "--requantise loads the checkpoint as transformers does, which needs accelerate: "
            "pip install accelerate, or leave out --requantise"
        )


def _requantise(folder: Path, dense: Any, base: Base, source: Source, *, codes: str) -> dict[str, Any]:
    """Put the merged checkpoint back into 4 bits, in the format of transformers and bitsandbytes.

    Returns:
        How far its weights are from the dense ones.
    """
    from bitsandbytes.functional import dequantize_4bit
    from transformers import BitsAndBytesConfig

    from variants import backbone_linears

    inside = backbone_linears(dense)
    outside = [n for n, m in dense.named_modules() if isinstance(m, torch.nn.Linear) and n not in inside]
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=codes,
        bnb_4bit_use_double_quant=source.storage_options.get("double_quant", True),
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=outside or None,
    )
    model = _load(folder, source, quantization_config=settings, device_map={"": base.device})
    errors = []
    for name, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            plain = dense.get_submodule(name)
            W = plain.weight.T if type(plain).__name__ == "Conv1D" else plain.weight
            back = dequantize_4bit(module.weight.data, state).to(W.dtype)
            errors.append(((back - W).norm() / W.norm()).item())
    again = folder / "requantised"
    model.save_pretrained(again)
    for file in folder.glob("model*.safetensors*"):
        file.unlink()
    for file in again.iterdir():
        file.replace(folder / file.name)
    shutil.rmtree(again)
    return {"weight_error": sum(errors) / len(errors), "requantised_maps": len(errors)}
