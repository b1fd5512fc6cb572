"""AdamW over the run axis: every run of a pack has its own rates, decay, clipping and fate.

Trained tensors that belong to the same runs live in one flat buffer (runs, P), and each parameter is a view
of it, so a step costs a dozen kernels however many layers are adapted. Gradients are gathered into such a
buffer when the backward pass has ended, so that none takes memory while activations do. Rows never mix: what
happens to one run cannot reach another. Loshchilov & Hutter 2019, arXiv:1711.05101; the update is
torch.optim.AdamW's, term for term.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from experiments.training.paged import paged_zeros_like
from variants import Trained

_CHUNK = 1 << 16  # elements whose squares are added one after another

RunRates = Mapping[str, tuple[float, float]]  # role -> (learning rate, weight decay)


@dataclass(frozen=True)
class AdamSettings:
    """What AdamW needs of one run beyond its rates.

    `clip` is the largest gradient norm of the run; 0 turns clipping off.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip: float = 1.0


@dataclass
class _Flat:
    """The tensors of one slice of the run axis, as rows of flat buffers (runs, P), ordered by role."""

    runs: slice
    parameters: list[tuple[nn.Parameter, slice]]  # each with its columns
    roles: list[tuple[str, slice]]  # role -> columns
    value: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    gathered: Tensor | None = None

    @property
    def grad(self) -> Tensor:
        """The gradients, gathered when first asked for; each parameter's own is a view from then on."""
        if self.gathered is None:
            rows = len(self.value)
            parts = [torch.zeros_like(p) if p.grad is None else p.grad for p, _ in self.parameters]
            self.gathered = torch.cat([part.reshape(rows, -1) for part in parts], dim=1)
            for p, columns in self.parameters:
                p.grad = self.gathered[:, columns].view(p.shape)
        return self.gathered

    def drop_grad(self) -> None:
        """Forget the gradients and their memory."""
        self.gathered = None
        for p, _ in self.parameters:
            p.grad = None


def _flatten(runs: slice, trained: Sequence[Trained], zeros_like: Callable[[Tensor], Tensor]) -> _Flat:
    """Re-home the parameters: each becomes a view of one buffer."""
    ordered = sorted(trained, key=lambda t: t.role)
    rows = runs.stop - runs.start
    value = torch.cat([t.parameter.detach().reshape(rows, -1).float() for t in ordered], dim=1)
    places, start = [], 0
    for t in ordered:
        stop = start + t.parameter.numel() // rows
        shape = t.parameter.shape
        t.parameter.data = value[:, start:stop].view(shape)
        places.append(slice(start, stop))
        start = stop
    by_role = groupby(zip(ordered, places, strict=True), key=lambda pair: pair[0].role)
    roles = [(role, _span([place for _, place in part])) for role, part in by_role]
    parameters = [(t.parameter, place) for t, place in zip(ordered, places, strict=True)]
    return _Flat(runs, parameters, roles, value, zeros_like(value), zeros_like(value))


def _span(columns: Sequence[slice]) -> slice:
    return slice(columns[0].start, columns[-1].stop)


def _norm(rows: Tensor) -> Tensor:
    """The norm of each row of (K, P): (K,).

    A norm of norms: the CPU adds squares one after another in float32, which by 110M of them is off by 1%.
    """
    whole = rows.shape[1] // _CHUNK * _CHUNK
    chunks = torch.linalg.vector_norm(rows[:, :whole].unflatten(1, (-1, _CHUNK)), dim=2)
    rest = torch.linalg.vector_norm(rows[:, whole:], dim=1, keepdim=True)
    return torch.linalg.vector_norm(torch.cat([chunks, rest], dim=1), dim=1)


class PackedAdamW:
    """AdamW for K runs at once; run k reads nothing but row k.

    Args:
        trained: The trained tensors, each with its role and its slice of the run axis.
        rates: For each run, role -> (learning rate, weight decay).
        settings: For each run, betas, eps and clipping.
        paged: Whether the moments live in paged memory. It is there on a GPU only; elsewhere this is without
            effect, and `described` says so.

    Raises:
        KeyError: A tensor has a role for which a run states no rate.
    """

    def __init__(
        self,
        trained: Sequence[Trained],
        *,
        rates: Sequence[RunRates],
        settings: Sequence[AdamSettings],
        paged: bool = False,
    ):
        device = trained[0].parameter.device if trained else torch.device("cpu")
        self.paged = paged and device.type == "cuda"
        zeros_like = paged_zeros_like if self.paged else torch.zeros_like
        by_runs = sorted(trained, key=lambda t: (t.runs.start, t.runs.stop))
        self._flats = [
            _flatten(slice(start, stop), list(part), zeros_like)
            for (start, stop), part in groupby(by_runs, key=lambda t: (t.runs.start, t.runs.stop))
        ]
        column = lambda values: torch.tensor(list(values), dtype=torch.float32, device=device).unsqueeze(1)  # noqa: E731
        self._rates = {
            role: (column(r[role][0] for r in rates), column(r[role][1] for r in rates)) for role in rates[0]
        }
        missing = {role for flat in self._flats for role, _ in flat.roles} - set(self._rates)
        if missing:
            raise KeyError(
                f"no learning rate is stated for the roles {sorted(missing)}; stated: {sorted(self._rates)}"
            )
        self._beta1, self._beta2 = column(s.beta1 for s in settings), column(s.beta2 for s in settings)
        self._eps, self._clip = column(s.eps for s in settings), column(s.clip for s in settings)
        self._steps = torch.zeros_like(self._eps)

    @property
    def described(self) -> str:
        """What it is, for a record."""
        return f"AdamW, moments in 32 bits{', paged' if self.paged else ''}"

    def zero_grad(self) -> None:
        """Before the backward passes of a step."""
        for flat in self._flats:
            flat.drop_grad()

    def gradients(self) -> list[Tensor]:
        """All gradients, in the buffers that the step reads."""
        return [flat.grad for flat in self._flats]

    def grad_norm(self) -> Tensor:
        """The norm of each run's whole gradient, before clipping: (K,)."""
        squares = torch.zeros_like(self._eps[:, 0])
        for flat in self._flats:
            squares[flat.runs] += _norm(flat.grad) ** 2
        return squares.sqrt()

    def role_norms(self) -> dict[str, Tensor]:
        """The norm of each run's gradient over the tensors of a role, before clipping: role -> (K,)."""
        squares = {role: torch.zeros_like(self._eps[:, 0]) for flat in self._flats for role, _ in flat.roles}
        for flat in self._flats:
            for role, columns in flat.roles:
                squares[role][flat.runs] += _norm(flat.grad[:, columns]) ** 2
        return {role: square.sqrt() for role, square in squares.items()}

    def clip(self, norm: Tensor) -> None:
        """Scale down, in place, the gradient of each run whose norm (K,) exceeds its limit."""
        limit = self._clip[:, 0]
        factor = torch.where((limit > 0) & (norm > limit), limit / (norm + 1e-6), torch.ones_like(norm))
        for flat in self._flats:
            flat.grad.mul_(factor[flat.runs].unsqueeze(1))

    @torch.no_grad()
    def step(self, factor: Tensor, alive: Tensor) -> None:
        """One update. `factor` (K,) scales each run's rates; a run that is not `alive` (K,) does not move.

        The choice is made by `torch.where`: a gradient of NaN in one run is replaced, never multiplied by
        zero.
        """
        self._steps += alive.unsqueeze(1)
        count = self._steps.clamp_min(1)
        correction1, correction2 = 1 - self._beta1**count, 1 - self._beta2**count
        scheduled = torch.where(alive, factor, torch.zeros_like(factor)).unsqueeze(1)
        for flat in self._flats:
            at = flat.runs
            if alive.device.type != "cpu" or not bool(alive[at].all()):  # a GPU is not waited for to know
                flat.grad.copy_(torch.where(alive[at].unsqueeze(1), flat.grad, torch.zeros_like(flat.grad)))
            flat.exp_avg.lerp_(flat.grad, 1 - self._beta1[at])
            flat.exp_avg_sq.mul_(self._beta2[at]).add_(flat.grad.square().mul_(1 - self._beta2[at]))
            denominator = flat.exp_avg_sq.sqrt().div_(correction2[at].sqrt()).add_(self._eps[at])
            update = denominator.reciprocal_().mul_(flat.exp_avg)
            for role, columns in flat.roles:
                rate, decay = (each[at] for each in self._rates[role])
                lr = rate * scheduled[at]
                part = flat.value[:, columns]
                part.mul_(1 - lr * decay).sub_(update[:, columns] * (lr / correction1[at]))

    def state_dict(self) -> dict:
        """Everything a resumed run needs to go on to the same bits."""
        return {"steps": self._steps, "flats": [(f.value, f.exp_avg, f.exp_avg_sq) for f in self._flats]}

    def load_state_dict(self, state: Mapping) -> None:
        """Restore what `state_dict` returned, in place: the parameters are views of these buffers."""
        self._steps.copy_(state["steps"])
        for flat, tensors in zip(self._flats, state["flats"], strict=True):
            for mine, theirs in zip((flat.value, flat.exp_avg, flat.exp_avg_sq), tensors, strict=True):
                mine.copy_(theirs)
