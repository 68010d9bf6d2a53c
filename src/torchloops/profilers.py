"""Profilers: how long hooks, steps and data take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

from torchloops.errors import ConfigurationError, did_you_mean

__all__ = ["Profiler", "PyTorchProfiler", "SimpleProfiler", "make_profiler", "profiling", "timed"]


class Profiler(Protocol):
    """What ``Trainer(profiler=...)`` takes; Lightning's profilers are such objects, too."""

    def profile(self, action_name: str) -> AbstractContextManager[Any]:
        """A context whose time belongs to an action, such as ``"[Callback]EarlyStopping.on_validation_end"``."""

    def summary(self) -> str:
        """What is printed when a fit or an evaluation is over."""


@dataclass
class _Times:
    calls: int = 0
    seconds: float = 0.0


class SimpleProfiler:
    """Adds up how long each hook, each step and the wait for each batch take, and prints a table at the end.

    On an accelerator a step only starts work, so its time is that of starting it; for the device itself use "pytorch".

    Attributes:
        times: calls and seconds by action.
    """

    def __init__(self) -> None:
        self.times: dict[str, _Times] = {}
        self._started = perf_counter()

    @contextmanager
    def profile(self, action_name: str) -> Iterator[None]:
        """A context whose time belongs to ``action_name``."""
        start = perf_counter()
        try:
            yield
        finally:
            times = self.times.setdefault(action_name, _Times())
            times.calls += 1
            times.seconds += perf_counter() - start

    def summary(self) -> str:
        """A table, the longest first: action, mean seconds a call, calls, seconds, share of the time so far."""
        whole = perf_counter() - self._started
        width = max(map(len, self.times), default=6)
        lines = [f"{'action':<{width}}  {'mean (s)':>10}  {'calls':>8}  {'total (s)':>10}  {'share':>6}"]
        for name, times in sorted(self.times.items(), key=lambda item: -item[1].seconds):
            mean, share = times.seconds / times.calls, times.seconds / whole
            lines.append(f"{name:<{width}}  {mean:>10.6f}  {times.calls:>8}  {times.seconds:>10.4f}  {share:>6.1%}")
        return "\n".join(lines)


class PyTorchProfiler:
    """torch's profiler over a fit or an evaluation: the operators that take longest, hooks and steps among them.

    Args:
        row_limit: rows of the table.
        options: further arguments of ``torch.profiler.profile``, such as ``schedule`` or ``on_trace_ready``.
    """

    def __init__(self, row_limit: int = 20, **options: Any) -> None:
        self.row_limit, self.options = row_limit, options
        self.profiler: Any = None

    def start(self) -> None:
        """Begin to record."""
        from torch.profiler import profile

        self.profiler = profile(**self.options)
        self.profiler.start()

    def stop(self) -> None:
        """Record no more."""
        self.profiler.stop()

    def profile(self, action_name: str) -> AbstractContextManager[Any]:
        """A context that has its own row."""
        from torch.profiler import record_function

        return record_function(action_name)

    def summary(self) -> str:
        """torch's table of operators, those with the longest time of their own first."""
        averages = self.profiler.key_averages()
        return str(averages.table(sort_by="self_cpu_time_total", row_limit=self.row_limit))


def make_profiler(given: Any) -> Any:
    """The profiler that an argument stands for; None: none.

    Raises:
        ConfigurationError: it stands for none.
    """
    known = {"simple": SimpleProfiler, "pytorch": PyTorchProfiler}
    if isinstance(given, str):
        if given not in known:
            hint = " For Python's own use `python -m cProfile`." if given == "advanced" else did_you_mean(given, known)
            raise ConfigurationError(f'profiler is "simple", "pytorch" or an object, got {given!r}.{hint}')
        return known[given]()
    if given is not None and not hasattr(given, "profile"):
        raise ConfigurationError(
            f"profiler= takes an object with `profile(action_name)`, a context, got {type(given).__name__}."
        )
    return given


@contextmanager
def profiling(profiler: Any, stage: str) -> Iterator[None]:
    """A context around a fit or an evaluation, at whose end the summary is printed."""
    if profiler is None:
        yield
        return
    with ExitStack() as stack:
        if isinstance(profiler, PyTorchProfiler):
            profiler.start()
            stack.callback(lambda: print(profiler.summary()))
            stack.callback(profiler.stop)
        elif hasattr(profiler, "setup"):  # one of Lightning's
            profiler.setup(stage, None, None)
            stack.callback(profiler.describe)
        else:
            stack.callback(lambda: print(profiler.summary()))
        yield


def timed(profiler: Any, name: str, function: Any) -> Any:
    """``function``, whose time is that of the action ``name``."""
    if profiler is None:
        return function

    def call(*args: Any, **kwargs: Any) -> Any:
        with profiler.profile(name):
            return function(*args, **kwargs)

    return call
