"""A process that has imported torch and the scenarios and forks a child for each attempt: a start takes milliseconds.

What draws random numbers when it is imported is left to the children, as a fresh process would import it.

As a script it reads a JSON request a line and answers each with a JSON line ``{"status": exit status, negative for a
signal, "seconds": duration, "said": what the child printed}``. `Server` is the other end.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

__all__ = ["HUNG", "Server"]

LIMIT = 120.0  # seconds an attempt may take
HUNG = -1000  # status of one that took longer
PRELOADED = (
    "matplotlib.pyplot", "pandas", "torch", "torch._dynamo", "torchloops", "torchmetrics.classification", "scenarios",
    "outcome",
)  # fmt: skip


class Server:
    """The fork server, as an object; close it when done."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make one attempt.

        Args:
            request: see `attempt.attempt`; also ``"delay"``: seconds after which the child gets SIGKILL.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("The fork server has died; its message is above.")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def serve() -> None:
    """Answer requests until there are no more."""
    import importlib

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for name in PRELOADED:
        before = _next_numbers()
        importlib.import_module(name)
        if _next_numbers() != before:
            raise RuntimeError(f"The import of {name} draws random numbers, which the tests would not see.")
    for line in sys.stdin:
        request = json.loads(line)
        answers.write(json.dumps(supervise(request)) + "\n")
        answers.flush()


def _next_numbers() -> tuple[float, float, float]:
    """What the generators give next; they stay as they are."""
    import numpy as np
    import torch

    from torchloops.seeding import isolated_generators

    with isolated_generators():
        return random.random(), float(np.random.rand()), float(torch.rand(()))


def supervise(request: dict[str, Any]) -> dict[str, Any]:
    """Fork a child for a request, kill it when its time comes, and say what became of it."""
    said = Path(request["folder"], "said.log")
    said.write_text("", encoding="utf-8")
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_the_child(request, said)
    limit = request.get("delay") or LIMIT
    status = _wait(child, start + limit)
    if status is None:
        os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        status = status if "delay" in request else HUNG
    seconds = time.monotonic() - start
    _kill_workers(child)
    text = said.read_text(encoding="utf-8", errors="replace")
    return {"status": status, "seconds": seconds, "said": text[-6000:]}


def _wait(child: int, until: float) -> int | None:
    """The exit status of a child; None if it runs longer."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.001)


def _kill_workers(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _be_the_child(request: dict[str, Any], said: Path) -> None:
    code = 1
    try:
        os.setsid()
        log = os.open(said, os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        from attempt import attempt

        attempt(request)
        code = 0
    except KeyboardInterrupt:
        traceback.print_exc()
        code = 130
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    serve()
