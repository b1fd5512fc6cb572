"""AdaptedLinear: the layer that holds a frozen map and the deltas of all runs."""

from jaxtyping import Float
from torch import Tensor, nn

from variants._base import Base, Delta, Held
from variants._lowrank import Block, Part, low_rank_linear


class AdaptedLinear(nn.Module):
    """A frozen map with the deltas of all runs.

    Its input's first axis is the runs' rows in order, equally many for each.
    """

    def __init__(
        self,
        base: Base,
        bias: Tensor | None,
        *,
        name: str,
        runs: int,
        origin: type[nn.Module] = nn.Linear,
        storage: str = "fp32",
    ) -> None:
        super().__init__()
        self.base, self.name, self.runs, self.origin, self.storage = base, name, runs, origin, storage
        self.bias = bias if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.deltas = nn.ModuleList()
        self.held: list[Held] = []

    def hold(self, runs: slice, block: Block, delta: Delta, base: Base) -> None:
        """Add the delta of some runs; `base` is the layer's own or a `BlockOf` it."""
        whole = block is None and runs == slice(0, self.runs)
        self.deltas.append(delta)
        self.held.append(Held(Part(runs, block, whole), delta, base))

    @property
    def weight(self) -> Tensor:
        """The frozen weight, for models that look at it."""
        return self.base.shown()

    def forward(self, x: Float[Tensor, "rows *mid d_in"]) -> Float[Tensor, "rows *mid d_out"]:
        """Every run's rows through its own W' x + b."""
        held = self.held
        if not held:
            return self.base.linear(x, self.bias)
        if x.shape[0] % self.runs:
            raise ValueError(
                f"{self.name} got an input of {x.shape[0]} rows, no multiple of the pack's {self.runs} runs: "
                "this layer is fed without a batch axis, so its runs must train one at a time."
            )
        if all(h.delta.fuses for h in held):
            parts = [(h.part, h.delta.factors(h.base)) for h in held]
            return low_rank_linear(self.base, self.bias, x, self.runs, parts)
        out = self._one_by_one(x.reshape(self.runs, -1, x.shape[-1])).view(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def _one_by_one(self, x: Float[Tensor, "K N d_in"]) -> Float[Tensor, "K N d_out"]:
        """Each delta by its own forward, from the shared base product."""
        y = self.base.linear(x)
        if [h.part.whole for h in self.held] == [True]:
            return self.held[0].delta(x, y, self.base)
        out = y.clone()
        for part, delta, base in self.held:
            part.piece(out).copy_(delta(part.rows(x), part.piece(y), base))
        return out
