"""The other processes of a run in several: started by the worker that has the run, ended with it.

    python -m experiments.training.sharded.peers        # started by `together`; not meant to be typed

Each does what the worker's process does, step for step, in a folder that is thrown away. It reads one line
from its standard input; when that closes, whoever started it is gone, and it ends. Signals are the worker's
business: all processes stop at the step at which one was asked to.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from experiments import tracking
from experiments.console.progress import Progress
from experiments.errors import death
from experiments.record import RunFolder
from experiments.spec import RunSpec, from_record
from experiments.training.execute import execute
from experiments.training.memory import is_out_of_memory
from experiments.training.run_state import Interrupted, Run
from experiments.training.sharded.group import Group

GRACE = 60.0  # seconds for a process to end once the run has, or to say why it did not


@contextlib.contextmanager
def together(spec: RunSpec, size: int, threads: int | None) -> Iterator[Group]:
    """While open, `size` processes train a run; this one is rank 0.

    Args:
        spec: The run as it is carried out.
        size: How many processes, on as many GPUs where there are any.
        threads: Of each, where the spec says nothing; None: as many as this one has.

    Raises:
        RuntimeError: Another process ended before the run did, with what it said.
        MemoryError: So it did, because memory ran out.
    """
    group = Group(0, size)
    threads = spec.train.threads or threads or torch.get_num_threads()
    peers = [_start(spec, rank, group, threads) for rank in range(1, size)]
    over = threading.Event()
    for peer in peers:
        threading.Thread(target=_watch, args=(peer, over), daemon=True).start()
    try:
        group.join(lambda: _check_alive(peers))
        yield group
    except Interrupted:
        raise
    except Exception as error:
        over.set()
        if (said := _first_failure(peers)) is not None:
            kind = MemoryError if said.get("oom") else RuntimeError
            raise kind(f"process {said['rank']} of {size} ended: {said['error']}") from error
        raise
    finally:
        over.set()
        _end(peers)
        group.leave()


def _start(spec: RunSpec, rank: int, group: Group, threads: int) -> subprocess.Popen[str]:
    order = {"spec": spec.as_record(), "rank": rank, "size": group.size, "port": group.port}
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.training.sharded.peers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended already, which `_watch` sees
        process.stdin.write(json.dumps(order | {"threads": threads}) + "\n")
        process.stdin.flush()
    return process


def _check_alive(peers: list[subprocess.Popen[str]]) -> None:
    """While they are waited for, which would have no end without one of them."""
    if any(peer.poll() is not None for peer in peers):
        raise RuntimeError("a process of this run ended before it began")


def _watch(peer: subprocess.Popen[str], over: threading.Event) -> None:
    """End this process, too, if another one is gone and it hangs in a sum with it.

    gloo notices by itself; NCCL waits for ever.
    """
    code = peer.wait()
    if code != 0 and not over.wait(GRACE):
        print(f"a process of this run ended with exit code {code}", file=sys.stderr, flush=True)
        os._exit(1)


def _first_failure(peers: list[subprocess.Popen[str]]) -> dict | None:
    """What a process said when it failed by itself, None if none did: the others only lost their group."""
    deadline, said = time.monotonic() + 5, []
    for rank, peer in enumerate(peers, 1):
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = peer.wait(max(0.1, deadline - time.monotonic()))
            assert peer.stdout is not None
            lines = peer.stdout.read().splitlines()
            if code:
                last = json.loads(lines[-1]) if lines else {"error": death(code), "lost": False}
                said.append({**last, "rank": rank})
    return next((one for one in said if not one["lost"]), None)


def _end(peers: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + GRACE
    failing = sys.exception() is not None
    for peer in peers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if not failing:
                peer.wait(max(0.1, deadline - time.monotonic()))
        peer.kill()
        peer.wait()
        for pipe in (peer.stdin, peer.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def main() -> None:
    """Train along until the run has ended or stopped."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    order = json.loads(sys.stdin.readline())

    def end_with_worker() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=end_with_worker, daemon=True).start()
    torch.set_num_threads(order["threads"])
    group = Group(order["rank"], order["size"], order["port"])
    try:
        group.join()
        with tempfile.TemporaryDirectory() as folder:
            spec = from_record(order["spec"])
            run = Run(spec, "peer", RunFolder(Path(folder)), tracking.make({"name": "none"}))
            execute(
                [run], display=Progress(), checkpoint_every=math.inf, threads=order["threads"], group=group
            )
    except Interrupted:
        pass
    except Exception as error:
        lost = isinstance(error, RuntimeError) and not is_out_of_memory(error) and "onnection" in str(error)
        text = f"{type(error).__name__}: {error}"
        out.write(json.dumps({"error": text, "oom": is_out_of_memory(error), "lost": lost}) + "\n")
        out.flush()
        os._exit(1)
    group.leave()


if __name__ == "__main__":
    main()
