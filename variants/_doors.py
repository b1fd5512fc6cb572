"""What other rooms import from `variants`, which hands it out."""

from variants._base import Base, Clock, Delta, Held, Slot
from variants._export import merge
from variants._heads import PackedLinear
from variants._inject import linear_shapes, resolve
from variants._layer import AdaptedLinear
from variants._method import Attached, Controller, RunConfig, Trained, attach, rates
from variants._packable import fed_without_batch
from variants._peft import peft_form, write_peft
from variants._peft_attach import attach_peft
from variants._peft_read import Adapter, read_peft
from variants._peft_settings import AdapterError
from variants._plain import top_blocks
from variants._registry import UnknownPart, get, names, reads, register
from variants._seeds import generator
from variants._sizes import dense_size
from variants._stored import loads_stored, store_backbone, stored_layer
from variants._targets import TargetError, backbone_linears

__all__ = [
    "AdaptedLinear",
    "Adapter",
    "AdapterError",
    "Attached",
    "Base",
    "Clock",
    "Controller",
    "Delta",
    "Held",
    "PackedLinear",
    "RunConfig",
    "Slot",
    "TargetError",
    "Trained",
    "UnknownPart",
    "attach",
    "attach_peft",
    "backbone_linears",
    "dense_size",
    "fed_without_batch",
    "generator",
    "get",
    "linear_shapes",
    "loads_stored",
    "merge",
    "names",
    "peft_form",
    "rates",
    "read_peft",
    "reads",
    "register",
    "resolve",
    "store_backbone",
    "stored_layer",
    "top_blocks",
    "write_peft",
]
