"""Every error torchloops raises on purpose.

    TorchloopsError
    ├── ConfigurationError (ValueError)      arguments, hooks or loops that do not fit together
    ├── AnnotationError (ValueError)         an answer, a class, a file of labels or a label store that does not fit
    ├── WaitingForLabels                     people have to answer before the run can go on; its state is saved
    ├── DataError (ValueError)               a data set, folder or file that cannot be used
    ├── CheckpointError (ValueError)         a checkpoint that cannot be written, read or applied
    │   ├── DamagedCheckpointError           a file that is truncated, altered or no checkpoint at all
    │   └── CheckpointWriteError             a file that could not be written: full disk, no permission
    └── MissingDependencyError (ImportError) an optional package is not installed

A message says what is wrong, what was expected, what came, and what to do. `ResumeWarning` is the one warning about
checkpoints and resuming.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

__all__ = [
    "AnnotationError",
    "CheckpointError",
    "CheckpointWriteError",
    "ConfigurationError",
    "DamagedCheckpointError",
    "DataError",
    "MissingDependencyError",
    "PossibleUserWarning",
    "ResumeWarning",
    "TorchloopsError",
    "WaitingForLabels",
    "did_you_mean",
    "differences",
    "require",
    "taking_back",
]


class TorchloopsError(Exception):
    """Base of all errors raised on purpose by torchloops."""


class ConfigurationError(TorchloopsError, ValueError):
    """Arguments, hooks or loops that do not fit together."""


class DataError(TorchloopsError, ValueError):
    """A data set, folder or file that cannot be used as asked."""


class AnnotationError(TorchloopsError, ValueError):
    """An answer, a class, a file of labels or a label store that does not fit."""


class WaitingForLabels(TorchloopsError):
    """People have to answer before the run can go on; its state is saved."""


class CheckpointError(TorchloopsError, ValueError):
    """A checkpoint that cannot be written, read or applied."""


class DamagedCheckpointError(CheckpointError):
    """A file that is truncated, altered or no checkpoint at all."""


class CheckpointWriteError(CheckpointError):
    """A checkpoint that could not be written: a full disk, no permission; the file before it is as it was."""


class ResumeWarning(UserWarning):
    """A run goes on in another way than asked for, or will not be able to go on exactly."""


class MissingDependencyError(TorchloopsError, ImportError):
    """An optional package is not installed."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return `` Did you mean "x"?`` for the name closest to ``name``, or an empty string."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f' Did you mean "{close[0]}"?' if close else ""


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``name was a and is b`` for every name that both know with values that are not equal."""
    shared = [name for name in saved if name in now and _differ(saved[name], now[name])]
    return [f"{name} was {saved[name]!r} and is {now[name]!r}" for name in shared]


def _differ(one: Any, other: Any) -> bool:
    if hasattr(one, "equal") and type(one) is type(other):  # tensors have no single answer to !=
        return not one.equal(other)
    try:
        return bool(one != other) and repr(one) != repr(other)  # a number that is not one is no other
    except (RuntimeError, ValueError):  # tensors inside
        return repr(one) != repr(other)


class PossibleUserWarning(UserWarning):
    """Something looks as if it was forgotten, and may be meant."""


def require(package: str, *, extra: str, needed_by: str) -> ModuleType:
    """Import ``package`` and return it.

    Args:
        package: dotted name to import.
        extra: the extra of torchloops that installs it.
        needed_by: what the user asked for, as it reads in the message.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    from torchloops.seeding import undisturbed_import

    try:
        return undisturbed_import(package)
    except ModuleNotFoundError as error:
        root = package.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != root:
            raise
        raise MissingDependencyError(
            f'{needed_by} needs {root}. Install it: pip install "torchloops[{extra}]".'
        ) from error


@contextmanager
def taking_back(what: str) -> Iterator[None]:
    """A context in which any error means that a state of a checkpoint does not fit whoever takes it back.

    Args:
        what: as it reads in the message: "the callback Averaging cannot take back its state".

    Raises:
        CheckpointError: with the error as its cause; those of the library pass as they are.
    """
    try:
        yield
    except (TorchloopsError, Warning):
        raise
    except Exception as error:
        raise CheckpointError(
            f"The checkpoint cannot be resumed: {what}: {type(error).__name__}: {error}. Resume with the code that the "
            "run had; if it is the same, the checkpoint was edited: take one that was not."
        ) from error
