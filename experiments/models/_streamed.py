"""Streaming into a storage: each linear map is stored as it is read, so none waits for the others.

A quantiser as transformers knows them, for the storages of `variants`: nothing more of the dense backbone is
ever held than the map at hand.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from variants import AdaptedLinear, RunConfig, backbone_linears, stored_layer

METHOD = "ablora"


@register_quantization_config(METHOD)
class Streamed(QuantizationConfigMixin):
    """What `from_pretrained` takes as its quantization_config: the run whose storage the base is for."""

    def __init__(self, run: RunConfig) -> None:
        self.quant_method, self.run = METHOD, run


@register_quantizer(METHOD)
class Storer(HfQuantizer):
    """Stores the linear maps of a backbone while a model is loaded; all else is loaded as ever."""

    is_trainable = True

    def is_serializable(self) -> bool:
        """No: it leaves nothing to save, the layers are the model's own."""
        return False

    def _process_model_before_weight_loading(self, model: nn.Module, **_: Any) -> None:
        self.names = set(backbone_linears(model))
        self.layers: dict[str, AdaptedLinear] = {}

    def param_needs_quantization(self, model: nn.Module, param_name: str, **_: Any) -> bool:
        """Whether this is the weight of a map to be stored."""
        return param_name.endswith(".weight") and param_name.removesuffix(".weight") in self.names

    def get_quantize_ops(self) -> ConversionOps:
        """The step between reading a weight and setting it."""
        return _Store(self)

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        for name, layer in self.layers.items():
            bias = model.get_submodule(name).bias  # was read after the weight, or before
            layer.bias = bias if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
            model.set_submodule(name, layer)
        self.remove_quantization_config(model)  # to transformers it is a model like any other
        for module in model.modules():
            getattr(module, "config", model.config).__dict__.pop("_is_quantized", None)
        return model


class _Store(ConversionOps):
    def __init__(self, storer: Storer) -> None:
        self.storer = storer

    def convert(
        self, input_dict: dict[str, Any], *, model: nn.Module, full_layer_name: str, **_: Any
    ) -> dict[str, Tensor]:
        """Store one weight; what stands in the model until the end is a weight without content."""
        [value] = input_dict.values()
        weight = value[0] if isinstance(value, list) else value
        name = full_layer_name.removesuffix(".weight")
        module = model.get_submodule(name)
        if weight.shape != module.weight.shape:
            raise ValueError(f"{name} is {tuple(module.weight.shape)}, the file has {tuple(weight.shape)}")
        run = self.storer.quantization_config.run
        self.storer.layers[name] = stored_layer(name, module, run, weight=weight)
        return {full_layer_name: nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=False)}
