"""The processes that train one run together.

The frozen base lies in shards, one in each process, and FSDP2 (`torch.distributed.fsdp.fully_shard`) puts a
block together for as long as it computes. What learns is small and whole in every process. Each takes an
equal part of a batch's rows; the sum of their gradients is that of the batch, so all take the same step, and
whatever happens between steps happens everywhere alike.
"""

import io
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from variants import AdaptedLinear, Attached, block_stacks, fed_without_batch

HOST = "127.0.0.1"
PATIENCE = timedelta(hours=12)  # for the others to load; the end of a process is noticed at once


class Group:
    """This process's place among `size`; rank 0 is the one that writes.

    Args:
        rank: The number of this process.
        size: How many there are.
        port: Where rank 0 listens; None for rank 0, which then chooses one.
    """

    def __init__(self, rank: int, size: int, port: int | None = None):
        self.rank, self.size = rank, size
        self._store = dist.TCPStore(
            HOST, port or 0, size, is_master=port is None, timeout=PATIENCE, wait_for_workers=False
        )
        self.port = self._store.port

    def join(self, check: Callable[[], None] = lambda: None) -> None:
        """Wait until all are there; `check` is called on the way and may raise."""
        self._store.add("there", 1)
        while self._store.add("there", 0) < self.size:
            check()
            time.sleep(0.05)
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(self.rank)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=self._store,
            rank=self.rank,
            world_size=self.size,
            timeout=PATIENCE,
        )

    def leave(self) -> None:
        """Give back what the group holds; nothing is waited for."""
        if dist.is_initialized():
            dist.destroy_process_group()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One process after another, so that the whole base is in memory once and not `size` times."""
        for _ in range(self.rank):
            dist.barrier()
        yield
        for _ in range(self.size - self.rank):
            dist.barrier()

    def shard(self, attached: Attached, device: torch.device) -> None:
        """Keep this process's shard of the frozen base on its device, and all of what learns.

        Raises:
            ValueError: A layer's rows are not those of the batch, and dropout is to act on them; or experts
                are adapted.
        """
        if any(type(layer) is not AdaptedLinear for layer in attached.layers.values()):
            raise ValueError("fsdp shards no adapted experts: leave them out of the targets.")
        odd = [name for name in fed_without_batch(attached.model) if name in attached.layers]
        if odd and any(run.dropout for run in attached.runs):
            raise ValueError(
                f"{odd[0]} is fed without a batch axis, so fsdp cannot share out its rows: set "
                "variant.dropout=0, or leave it out of the targets."
            )
        model = attached.model
        mesh = init_device_mesh(device.type, (self.size,))
        whole = {t.parameter for t in attached.trained}
        for layer in attached.layers.values():
            whole |= set(layer.deltas.parameters())
        for name, count in block_stacks(model).items():
            for i in range(count):
                fully_shard(model.get_submodule(f"{name}.{i}"), mesh=mesh, ignored_params=whole)
        fully_shard(model, mesh=mesh, ignored_params=whole)
        model.to(device)
        attached.after_load()  # what was kept from W is not where the layers are now
        attached.clock.part = (self.rank, self.size)

    def part(self, rows: Tensor) -> Tensor:
        """This process's part of the rows of a batch; their number is a multiple of `size`."""
        return rows.chunk(self.size)[self.rank]

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by the sum over all processes, the same bits everywhere."""
        for tensor in tensors:
            dist.all_reduce(tensor)

    def any(self, said: bool) -> bool:
        """Whether any process says so."""
        found = torch.tensor(int(said))
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def shared(self, state: Any) -> Any:
        """What rank 0 gave, on the CPU; the others may give anything."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        box = [buffer.getvalue()]
        dist.broadcast_object_list(box, src=0)
        return torch.load(io.BytesIO(box[0]), weights_only=True, map_location="cpu")
