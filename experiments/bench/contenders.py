"""Who steps against whom: our layers, PEFT's, and the same frozen model with no adapter.

All share the frozen tensors of the workload and differ in what they add. Optimiser (AdamW), rates and
clipping are the same.
"""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.bench.workload import Workload, variant_options
from experiments.config.settings import Train
from experiments.training.adamw import AdamSettings, PackedAdamW
from variants import Attached, RunConfig, attach, backbone_linears, rates, resolve
from variants._core.names import Layout
from variants._core.targets import layout_of

LR, CLIP = 1e-4, 1.0
STEPS, BEGIN = 10_000, 3_000  # AdaLoRA is measured in the phase that prunes
# What PEFT has beside LoRA, DoRA and AdaLoRA: its settings at rank r, from the options of our yaml
FORMS: dict[str, Callable[[Any, int, dict[str, Any]], Any]] = {
    "vera": lambda peft, r, own: peft.VeraConfig(r=r, d_initial=own["d_initial"]),
    "miss": lambda peft, r, own: peft.MissConfig(r=r),
    "delora": lambda peft, r, own: peft.DeloraConfig(r=r, delora_lambda=own["delora_lambda"]),
    "hira": lambda peft, r, own: peft.HiraConfig(r=r),
    "fourierft": lambda peft, r, own: peft.FourierFTConfig(
        n_frequency=min(own["n_per_r"] * r, own["smallest"]), scaling=own["fourier_scale"]
    ),
    "randlora": lambda peft, r, own: peft.RandLoraConfig(r=r, randlora_alpha=own["randlora_scale"] * r),
    "gralora": lambda peft, r, own: peft.GraloraConfig(
        r=r, gralora_k=next((k for k in range(2, r) if r % k == 0), r), alpha=16
    ),
    "oft": lambda peft, r, own: peft.OFTConfig(r=0, oft_block_size=r, use_cayley_neumann=False),
    "loha": lambda peft, r, own: peft.LoHaConfig(r=r, alpha=16),
    "lokr": lambda peft, r, own: peft.LoKrConfig(r=r, alpha=16),
}
BASELINES: dict[str, Callable[[Any, Any, dict[str, Any]], Any]] = {  # from PEFT, our layout, our options
    "ia3": lambda peft, layout, own: peft.IA3Config(
        target_modules={n for n, kind in layout.kinds.items() if kind in "kv"} | _ends(layout),
        feedforward_modules=_ends(layout),
    ),
    "prefix": lambda peft, layout, own: peft.PrefixTuningConfig(
        num_virtual_tokens=own["length"], prefix_projection=True, encoder_hidden_size=own["inner"]
    ),
    "ptuning_v2": lambda peft, layout, own: peft.PrefixTuningConfig(num_virtual_tokens=own["length"]),
    "prompt": lambda peft, layout, own: peft.PromptTuningConfig(num_virtual_tokens=own["length"]),
}
STARTS = {"pissa": "pissa_niter_1", "olora": "olora", "eva": "eva", "loftq": True}  # PEFT's init_lora_weights
VARIANTS = ("lora", "dora", "adalora", "qlora", "lora_fa", *STARTS, *FORMS, *BASELINES)


@dataclass(frozen=True)
class Contender:
    """A model that trains, and one step of it."""

    model: nn.Module
    step: Callable[[], object]


def storage_of(work: Workload, variant: str) -> str:
    """How a variant keeps the frozen weights here."""
    return variant_options(variant)["storage"] or work.storage


def run_config(work: Workload, variant: str, *, r: int, targets: str) -> RunConfig:
    """A run of the variant as its yaml has it."""
    options = variant_options(variant)
    chosen = ("delta", "scaling", "grouping", "gradient", "controller")
    axes = {axis: options[axis] for axis in chosen if options.get(axis)}
    alpha = 16.0 if "alpha" in options["uses"] else None
    return RunConfig(
        seed=0, method=options["method"], targets=targets, r=r, alpha=alpha, options=options, steps=STEPS,
        axes={**axes, "storage": storage_of(work, variant)},
    )  # fmt: skip


def floor(work: Workload, *, targets: str, variant: str = "lora") -> Contender:
    """Forward and backward through the frozen layers alone, stored as the variant stores them.

    The graph begins where the first adapter would be.
    """
    axes = {"storage": storage_of(work, variant)}
    run = RunConfig(0, method="zero", axes=axes, options=variant_options(variant))
    model = attach(work.copy(), [run], device=work.device).model

    def begin_graph(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output if output.requires_grad else output.detach().requires_grad_()

    for name in target_names(model, targets):
        model.get_submodule(name).register_forward_hook(begin_graph)
    return Contender(model.train(), lambda: work.loss(model).backward())


def ours(work: Workload, variant: str, *, r: int, targets: str) -> Contender:
    """A step as the training loop takes it."""
    run = run_config(work, variant, r=r, targets=targets)
    attached: Attached = attach(work.copy(), [run], device=work.device)
    optimiser = PackedAdamW(
        attached.trained,
        rates=[rates(run, LR, LR, 0.0)],
        settings=[AdamSettings(clip=CLIP)],
        paged=bool(run.options.get("paged")),
    )
    factor = torch.ones(1, device=work.device)
    alive = torch.ones(1, dtype=torch.bool, device=work.device)
    attached.model.train()
    with attached.observing():  # what some inits see before the first step
        if attached.waiting():
            work.loss(attached.model).backward()
    attached.clock.step = BEGIN

    def step() -> None:
        optimiser.zero_grad()
        attached.before_step()
        (work.loss(attached.model) + attached.penalty().sum()).backward()
        optimiser.clip(optimiser.grad_norm())
        attached.before_update()
        optimiser.step(factor, alive)
        attached.after_step(attached.clock.step)
        if attached.clock.step % Train.log_every == 0:
            attached.step_log(0)
        attached.clock.step += 1

    return Contender(attached.model, step)


def peft(work: Workload, variant: str, *, r: int, targets: str) -> Contender:
    """A step with PEFT's layers, as its users write one; AdaLoRA's allocator and penalty included."""
    model = peft_model(work, variant, r=r, targets=targets)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = _adamw(work, parameters, variant)
    budget, count = variant == "adalora", iter(range(BEGIN, STEPS))
    model.train()

    def step() -> None:
        loss = work.loss(model)
        if budget:
            loss = loss + _orthogonality(model)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimiser.step()
        if budget:
            model.base_model.update_and_allocate(next(count))
        optimiser.zero_grad()

    return Contender(model, step)


def peft_model(work: Workload, variant: str, *, r: int, targets: str) -> Any:
    """PEFT's model of a variant; on 4 bits with the layers of bitsandbytes."""
    import peft
    from peft import AdaLoraConfig, LoraConfig, get_peft_model

    model = work.copy()
    if STARTS.get(variant) in ("pissa_niter_1", "olora"):  # takes the start out of the base itself
        model = copy.deepcopy(model)
    names = target_names(model, targets)
    if storage_of(work, variant) == "nf4":
        _quantise(model, variant_options(variant))
    common = {"lora_alpha": 16, "target_modules": names, "lora_dropout": 0.0, "task_type": work.task}
    if variant == "adalora":
        options = variant_options(variant)
        begin, end = (int(options[key] * STEPS) for key in ("t_init", "t_final"))
        config = AdaLoraConfig(
            init_r=-(-3 * r // 2), target_r=r, total_step=STEPS, tinit=begin, tfinal=end,
            deltaT=options["interval"], orth_reg_weight=options["orth_weight"], **common,
        )  # fmt: skip
    elif variant in BASELINES:
        config = BASELINES[variant](peft, layout_of(model), variant_options(variant))
        config.task_type = work.task
    elif variant in FORMS:
        smallest = min(model.get_submodule(name).weight.numel() for name in names)
        config = FORMS[variant](peft, r, variant_options(variant) | {"smallest": smallest})
        config.target_modules, config.task_type = set(names), work.task
    else:
        start = STARTS.get(variant, True)
        forms = {"use_dora": variant == "dora", "use_rslora": variant == "rslora"}
        config = LoraConfig(r=r, init_lora_weights=start, **forms, **common)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about names that PEFT still uses
        adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if variant == "lora_fa" and "lora_A" in name:
            parameter.requires_grad_(False)
    return adapted


def _ends(layout: Layout) -> set[str]:
    return {target.module for target in layout.outputs("m")}


def target_names(model: nn.Module, targets: str) -> list[str]:
    """The maps that a preset adapts."""
    return sorted({name for found in resolve(model, targets).values() for name in found})


def _quantise(model: Any, options: dict[str, Any]) -> None:
    """The backbone's linear maps as bitsandbytes' own layers, with our codes and compute type."""
    import bitsandbytes as bnb

    from variants import get

    settings = {"compress_statistics": options["double_quant"], "quant_type": "nf4"}
    sample = torch.zeros(64, 64, device=next(model.parameters()).device)
    compute = get("storage", "nf4")(sample, transposed=False, options=options).compute
    for name, module in backbone_linears(model).items():
        layer = bnb.nn.Linear4bit(
            module.in_features, module.out_features, bias=module.bias is not None, device="meta",
            compute_dtype=compute or torch.float32, **settings,
        )  # fmt: skip
        device = module.weight.device
        layer.weight = bnb.nn.Params4bit(module.weight.data.float(), requires_grad=False, **settings).to(
            device
        )
        layer.bias = module.bias
        model.set_submodule(name, layer)
    model.is_loaded_in_4bit = True  # by this PEFT knows


def _adamw(work: Workload, parameters: list[nn.Parameter], variant: str) -> Any:
    if variant_options(variant).get("paged") and work.device.type == "cuda":
        from bitsandbytes.optim import PagedAdamW32bit

        return PagedAdamW32bit(parameters, lr=LR, weight_decay=0.0)
    return torch.optim.AdamW(parameters, lr=LR, weight_decay=0.0)


def _orthogonality(adapted: nn.Module) -> Tensor:
    """The penalty as PEFT computes it; its own forward adds it only where the model itself returns a loss."""
    norms = []
    for name, p in adapted.named_parameters():
        if ("lora_A" in name or "lora_B" in name) and p.requires_grad:
            gram = p @ p.T if "lora_A" in name else p.T @ p
            norms.append(torch.norm(gram - torch.eye(*gram.shape, out=torch.empty_like(gram)), p="fro"))
    return variant_options("adalora")["orth_weight"] * torch.stack(norms).mean()
