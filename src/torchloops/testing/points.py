"""The points of the contract, one function each: it raises `Broken` with the reason where one does not hold."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from torchloops.loops import Loop
from torchloops.testing.case import SEED, Broken, Case, Outcome, digest, leaves_of, watch_of
from torchloops.testing.resuming import check_resumes
from torchloops.testing.spy import DOCUMENTED_ORDER, Spy, misplaced_end

__all__ = ["POINTS"]


def _trains(case: Case) -> None:
    outcome = case.run(case.trainer(case.make()))
    changed = any(weights != outcome.before for weights in outcome.weights)
    if case.entry == "fit" and not changed:
        raise Broken("after the fit, all weights are what they were before it.")
    if case.entry != "fit" and changed:
        raise Broken(f"trainer.{case.entry}() changed weights.")
    if not outcome.finite:
        raise Broken("weights became infinite or not a number.")


def _repeats(case: Case) -> None:
    first, second = (case.run(case.trainer(case.make())) for _ in range(2))
    _expect_same(first, second, "two fits with the same seed ended with different weights or outputs.")


def _trains_again(case: Case) -> None:
    loop = case.make()
    trainer = case.trainer(loop)
    first = case.run(trainer)
    what = "with a new module, new data and the same seed came to other weights or outputs than the first: "
    forgot = "something is left of the first. Put it back in `reset` or `on_run_start`."
    _expect_same(first, case.run(trainer), f"a second {case.entry} of the same Trainer {what}{forgot}")
    again = case.run(case.trainer(loop))
    _expect_same(first, again, f"the loop put into another Trainer {what}{forgot}")


def _hook_order(case: Case) -> None:
    loop = case.make()
    spy = Spy(loop)
    trainer = case.trainer(loop)
    case.run(trainer)
    if not spy.runs:
        raise Broken(f"nothing ran it. Is {case.path} the slot it belongs to, and does the module use that slot?")
    if (wrong := spy.wrong_run()) is not None:
        more = ", ..." if len(wrong) > 16 else ""
        raise Broken(f"its hooks ran as {', '.join(wrong[:16])}{more}. Documented: {DOCUMENTED_ORDER}.")
    if (wrong_end := misplaced_end(watch_of(trainer).calls)) is not None:
        raise Broken(f"hooks of callbacks do not pair: {wrong_end}.")


def _leaves_no_trace(case: Case) -> None:
    module = case.module()
    with _untouched(module):
        case.run(case.trainer(case.make()), module)
    if case.left_gradients:
        raise Broken("gradients were left off (torch.set_grad_enabled), or on where they were off.")


def _plain_state(case: Case) -> None:
    loop = case.make()
    spy = Spy(loop, keep_state=True)
    case.run(case.trainer(loop))
    for when, state in (("in the middle of a run", spy.state), ("after a run", loop.state_dict())):
        if state is None:
            continue
        loaded = _saved_and_loaded(state, when)
        for key in [key for key in loaded if key.endswith("attributes")]:
            loaded[key].pop("unsaved", None)  # what is not saved is for "resumes" to find
        other = case.make()
        case.trainer(other)
        other.load_state_dict(loaded)
        returned = other.state_dict()
        for key, value in loaded.items():
            if key.endswith("state_dict") and digest(returned.get(key)) != digest(value):
                path = key.removesuffix("state_dict").rstrip(".")
                raise Broken(
                    f"state saved {when} and loaded into a new loop comes back different"
                    + (f" at {path}" if path else "")
                    + ". on_load_checkpoint must take back all that on_save_checkpoint returned."
                )


class _TwoInnerRuns(Loop):
    """Runs a loop in two inner runs that begin alike, and keeps the weights each ends with."""

    def __init__(self, inside: Callable[[Any], Any]) -> None:
        super().__init__()
        self.inside = inside
        self.weights: list[str] = []

    @property
    def done(self) -> bool:
        return self.progress.current == 2

    def on_run_start(self) -> None:
        self.start = self.trainer.snapshot()
        self.before = digest(self.trainer.module.state_dict())

    def advance(self) -> None:
        trainer = self.trainer
        with trainer.isolated(f"round_{self.progress.current}", start=self.start, seed=SEED):
            self.inside(trainer)
        self.weights.append(digest(trainer.module.state_dict()))


def _nests(case: Case) -> None:
    trainer = case.trainer(case.make())
    inside = {"fit": lambda trainer: outer.fit_loop.run(), "predict": lambda trainer: trainer.predict_loop.run()}
    outer: Any = _TwoInnerRuns(inside.get(case.entry, lambda trainer: trainer.evaluate(case.entry)))
    outer.fit_loop = trainer.fit_loop
    trainer.fit_loop = outer
    module, data = case.module(), case.data()
    state = digest(_state_of(data))
    with _untouched(module):
        case.run(trainer, module, data, entry="fit")
    if case.entry != "fit":
        if set(outer.weights) != {outer.before}:
            raise Broken("inside an outer loop it changed weights.")
        return
    if outer.before in outer.weights:
        raise Broken("inside an outer loop it trained nothing: an inner run ended with the weights it began with.")
    if outer.weights[0] != outer.weights[1] and digest(_state_of(data)) == state:
        raise Broken(
            "of two inner runs with the same weights and seed the second ended with other weights than the first: "
            "something is left of the first. Put it back in `reset` or `on_run_start`."
        )


class _Planned(Exception):
    """The error that is raised inside a loop to see what becomes of it."""


def _survives_errors(case: Case) -> None:
    fresh = case.run(case.trainer(case.make()))
    loop = case.make()
    spy = Spy(loop)
    trainer, module, raised = case.trainer(loop), case.module(), []

    def fail(*args: Any) -> None:
        if spy.running:
            raised.append(True)
            raise _Planned("an error raised on purpose")

    handles = [part.register_forward_pre_hook(fail) for part in leaves_of(module)]
    try:
        with _untouched(module, "after an error inside it, "):
            case.run(trainer, module)
    except _Planned:
        pass
    else:
        if raised:
            raise Broken("an error of the module was swallowed.")
    for handle in handles:
        handle.remove()
    _expect_same(
        fresh,
        case.run(trainer),
        f"after an error, the next {case.entry} came to other weights or outputs than a first.",
    )


POINTS: dict[str, Callable[[Case], None]] = {
    "trains": _trains,
    "repeats": _repeats,
    "trains again": _trains_again,
    "hook order": _hook_order,
    "leaves no trace": _leaves_no_trace,
    "plain state": _plain_state,
    "nests": _nests,
    "survives errors": _survives_errors,
    "resumes": check_resumes,
}


def _expect_same(one: Outcome, other: Outcome, reason: str) -> None:
    if not one.same_as(other):
        raise Broken(reason)


def _state_of(data: Any) -> Any:
    """The state of a data module, and of nothing else."""
    return data.state_dict() if hasattr(data, "train_dataloader") and hasattr(data, "state_dict") else None


def _saved_and_loaded(state: dict[str, Any], when: str) -> dict[str, Any]:
    """What a safe load makes of a state."""
    file = io.BytesIO()
    try:
        torch.save(state, file)
        file.seek(0)
        return torch.load(file, weights_only=True)
    except Exception:
        where, value = _not_plain(state)
        raise Broken(
            f"state_dict() {when} is no plain data: {where} is of the type {type(value).__name__}. Numbers, strings, "
            "None, tensors, lists, tuples and dicts of them are plain; turn the rest into them in on_save_checkpoint."
        ) from None


_PLAIN = (str, bytes, bool, int, float, complex, type(None), torch.Tensor)


def _not_plain(value: Any, where: str = "it") -> tuple[str, Any]:
    """The first part of nested data that is not plain, and where it is."""
    items = value.items() if type(value) is dict else enumerate(value) if type(value) in (list, tuple) else ()
    for key, item in items:
        name = f"{where}[{key!r}]"
        if type(key) not in _PLAIN:
            return f"the key of {name}", key
        if type(item) not in _PLAIN and _not_plain(item, name)[1] is not None:
            return _not_plain(item, name)
    return (where, None) if type(value) in (dict, list, tuple) else (where, value)


@contextmanager
def _untouched(module: nn.Module, when: str = "") -> Iterator[None]:
    """A context that must leave the module as it found it, also by an error."""
    before = _described(module)
    try:
        yield
    finally:
        after = _described(module)
        changed = [name for name in before | after if before.get(name) != after.get(name)]
        if changed:
            name = changed[0]
            raise Broken(f"{when}{name} of the module is {after.get(name)}, and was {before.get(name)}.")


def _described(module: nn.Module) -> dict[str, Any]:
    """What must be left as it was: modes, ``requires_grad``, hooks, and private or shadowing attributes."""
    found: dict[str, Any] = {}
    for name, parameter in module.named_parameters():
        found[f"requires_grad of {name}"] = parameter.requires_grad
    for name, part in module.named_modules():
        label = name or type(part).__name__
        found[f"{label}.training"] = part.training
        for attribute, value in vars(part).items():
            if attribute.endswith("_hooks"):
                found[f"number of {label}.{attribute}"] = len(value or ())
            elif callable(value) and hasattr(type(part), attribute):
                found[f"{label}.{attribute}"] = f"replaced by {value!r}"
            elif attribute.startswith("_"):
                found[f"{label}.{attribute}"] = "there"
    return found
