"""What `from variants import ...` gives."""

from variants._core.attach import Attached, attach
from variants._core.base import Base
from variants._core.delta import Clock, Delta, Held, PeftAdapter
from variants._core.init import Init, Start, keep_decompositions
from variants._core.lowrank import Factors
from variants._core.merge import merge
from variants._core.names import TargetError
from variants._core.own import PackedLinear, block_stacks, top_blocks
from variants._core.registry import UnknownPart, get, names, reads, register
from variants._core.run import RunConfig, Slot, Trained, rates
from variants._core.seeds import generator, normal, uniform
from variants._core.storage import AdaptedLinear, dense_size, loads_stored, store_backbone, stored_layer
from variants._core.targets import backbone_linears, fed_without_batch, linear_shapes, resolve
from variants._peft.config import AdapterError
from variants._peft.read import Adapter, attach_peft, read_peft
from variants._peft.write import peft_form, write_inserted, write_peft

__all__ = [
    "AdaptedLinear", "Adapter", "AdapterError", "Attached", "Base", "Clock", "Delta", "Factors", "Held",
    "Init", "PackedLinear", "PeftAdapter", "RunConfig", "Slot", "Start", "TargetError", "Trained",
    "UnknownPart", "attach", "attach_peft", "backbone_linears", "block_stacks", "dense_size",
    "fed_without_batch", "generator", "get", "keep_decompositions", "linear_shapes", "loads_stored",
    "merge", "names", "normal", "peft_form", "rates", "read_peft", "reads", "register", "resolve",
    "store_backbone", "stored_layer", "top_blocks", "uniform", "write_inserted", "write_peft",
]  # fmt: skip
