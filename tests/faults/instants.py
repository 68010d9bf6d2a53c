"""Instants of a run, counted by name; at one of them the process gets a signal, by default SIGKILL."""

from __future__ import annotations

import builtins
import functools
import io
import os
import random
import signal
from collections import Counter
from typing import Any

import torch

__all__ = ["Instants"]


class Instants:
    """Counts what happens in this process, and strikes at one instant.

    Names are those of what is about to happen or has just happened: ``"before os.replace"``, ``"after os.fsync"``,
    ``"after optimizer step"``, ``"train forward"``. At ``"torn os.fsync"`` what is not on the disk yet is cut off
    at a random place, as a power cut may do.

    Args:
        strike: None, or ``{"at": name, "count": n-th time, from 1, "signal": "SIGKILL", "times": 1,
            "group": False}``. ``times``: signals sent; ``group``: to all processes of the group.
        seed: of the place at which files are cut off.

    Attributes:
        counts: how often each instant came.
    """

    def __init__(self, strike: dict[str, Any] | None, seed: int = 0) -> None:
        self.counts: Counter[str] = Counter()
        self.strike = strike
        self.trainer: Any = None
        self._seed = seed
        self._process = os.getpid()
        self._undo: list[tuple[Any, str, Any]] = []
        self._handles: list[Any] = []

    def happens(self, name: str) -> None:
        """Note an instant, and strike if it is the one."""
        if self._comes(name):
            self._send()

    def _comes(self, name: str) -> bool:
        if os.getpid() != self._process:  # a worker that was forked with these hooks in it
            return False
        self.counts[name] += 1
        return self.strike is not None and self.strike["at"] == name and self.strike["count"] == self.counts[name]

    def _send(self) -> None:
        number = signal.Signals[self.strike.get("signal", "SIGKILL")]
        for _ in range(self.strike.get("times", 1)):
            if self.strike.get("group"):
                os.killpg(0, number)
            else:
                os.kill(os.getpid(), number)

    def install(self, trainer: Any) -> None:
        """Put the hooks in place; ``trainer``, if given, tells the stage."""
        from torchloops.trainer.keeper import Keeper

        self.trainer = trainer
        for owner, name in (
            (os, "replace"), (os, "rename"), (os, "link"), (os, "unlink"), (os, "mkdir"), (torch, "save"),
            (Keeper, "safe_point"), (Keeper, "save"),
        ):  # fmt: skip
            self._wrap(owner, name, self._around(getattr(owner, name), f"{owner.__name__}.{name}"))
        self._wrap(os, "fsync", self._around_fsync(os.fsync))
        for owner in (builtins, io):
            self._wrap(owner, "open", self._before_open(owner.open))
        from torch.nn.modules.module import register_module_forward_pre_hook
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        self._handles = [
            register_module_forward_pre_hook(self._forward),
            register_optimizer_step_pre_hook(lambda *args: self.happens("before optimizer step")),
            register_optimizer_step_post_hook(lambda *args: self.happens("after optimizer step")),
        ]

    def remove(self) -> None:
        """Take the hooks away."""
        for owner, name, original in reversed(self._undo):
            setattr(owner, name, original)
        for handle in self._handles:
            handle.remove()
        self._undo, self._handles = [], []

    def _wrap(self, owner: Any, name: str, wrapped: Any) -> None:
        self._undo.append((owner, name, getattr(owner, name)))
        setattr(owner, name, wrapped)

    def _around(self, function: Any, label: str) -> Any:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.happens(f"before {label}")
            value = function(*args, **kwargs)
            self.happens(f"after {label}")
            return value

        return wrapped

    def _around_fsync(self, function: Any) -> Any:
        plain = self._around(function, "os.fsync")

        @functools.wraps(function)
        def wrapped(descriptor: Any) -> None:
            if self._comes("torn os.fsync"):
                number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
                size = os.fstat(number).st_size
                if os.path.isfile(f"/proc/self/fd/{number}"):
                    os.truncate(f"/proc/self/fd/{number}", random.Random(self._seed).randrange(size + 1))
                self._send()
            plain(descriptor)

        return wrapped

    def _before_open(self, function: Any) -> Any:
        @functools.wraps(function)
        def wrapped(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            writes = any(letter in mode for letter in "wax+")
            if writes:
                self.happens("before open")
            opened = function(file, mode, *args, **kwargs)
            if writes:
                self.happens("after open")
            return opened

        return wrapped

    def _forward(self, module: Any, inputs: Any) -> None:
        if isinstance(module, torch.nn.Linear):
            self.happens(f"{self._stage} forward")

    @property
    def _stage(self) -> str:
        if self.trainer is None:
            return "some"
        return "indivisible" if self.trainer.keeper._indivisible else str(self.trainer.state.stage)
