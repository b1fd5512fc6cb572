"""How much memory a run takes at its peak, and how it is given back."""

import contextlib
import gc
from pathlib import Path

import torch

_CLEAR_PEAK = "5"  # proc(5): resets the peak resident size


def reset_peak(device: torch.device) -> None:
    """Start measuring. On a GPU the allocator's peak, on Linux the process's resident size."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    # Where it is not Linux, or its kernel forbids it, `peak` covers the whole process.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK)


def peak(device: torch.device) -> int | None:
    """Bytes at the peak since `reset_peak`; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
    return int(line.split()[1]) * 1024 if line else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out.

    Torch's own, Python's, or the CPU allocator's plain RuntimeError.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def release() -> None:
    """Give back what nobody uses: objects that refer to each other in a circle, the GPU's cached blocks."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
