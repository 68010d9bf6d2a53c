"""check_loop: what every loop keeps, built-in, of the library, or yours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from torchloops.errors import ConfigurationError, TorchloopsError, did_you_mean
from torchloops.loops import Loop
from torchloops.testing.case import SLOTS, Broken, Case, TinyData
from torchloops.testing.parts import TinyClassifier
from torchloops.testing.points import POINTS

__all__ = ["SLOTS", "ContractError", "check_loop"]


class ContractError(TorchloopsError, AssertionError):
    """A loop does not keep the contract of all loops.

    Attributes:
        point: name of the point that failed, see `check_loop`.
    """

    def __init__(self, message: str, point: str = "") -> None:
        super().__init__(message)
        self.point = point


def check_loop(
    loop: Loop | Callable[[], Loop],
    slot: str = "fit_loop",
    *,
    make_module: Callable[[], nn.Module] = TinyClassifier,
    make_data: Callable[[], Any] = TinyData,
    max_epochs: int = 2,
    trainer_arguments: dict[str, Any] | None = None,
    leave_out: Iterable[str] = (),
) -> None:
    """Check that a loop keeps what every loop of torchloops keeps. It takes about 40 short fits on the CPU.

    | point | what is checked |
    | --- | --- |
    | "trains" | weights change and stay finite; in the slots of validate, test and predict they do not change |
    | "repeats" | the same seed gives the same bytes |
    | "trains again" | a second fit of the same Trainer, and one of another Trainer, give these bytes too |
    | "hook order" | skip, reset, on_run_start, ... as documented; callbacks get an end for every start |
    | "leaves no trace" | modes, ``requires_grad``, hooks and gradient mode as found, no private attribute left |
    | "plain state" | ``state_dict`` loads with ``weights_only=True`` and comes back the same from a new loop |
    | "nests" | inside two inner runs (``trainer.isolated``) of an outer loop it trains alike |
    | "survives errors" | an error inside comes out, leaves no trace, and the next fit is as good as a first |
    | "resumes" | stopped at every safe point and resumed in new objects, it ends as if it had not been stopped |

    Module and data are made anew for every fit. Where a fit changes the state of its data module (labels that were
    asked for), the two inner runs of "nests" may differ. A safe point is the end of a batch, of an epoch, or of an
    iteration of the loop in ``fit_loop`` and of outer loops.

    Args:
        loop: a function without arguments that makes one (a class will do), or a loop, which is copied. One that
            goes around another comes connected: ``loop.connect(FitLoop())``.
        slot: where it belongs: a key of `SLOTS`, or a path from the Trainer such as ``"predict_loop.epoch_loop"``.
        make_module: makes the module. Default: `TinyClassifier`, for inputs ``(batch, 32)`` of 10 classes.
        make_data: makes what goes to ``fit(module, ...)``: a data module, a loader, a data set. Default: a data
            module with 64 shuffled samples to train on in batches of 16, and 32 for each other stage.
        max_epochs: of the Trainers.
        trainer_arguments: further arguments of the Trainers.
        leave_out: names of points not to check, for a loop that breaks one on purpose.

    Raises:
        ContractError: a point does not hold; the message says which, and why. It is an AssertionError too.
        ConfigurationError: an argument of this function is wrong.

    Example:
        >>> from torchloops import FitLoop
        >>> check_loop(FitLoop)
    """
    leave_out = _known(leave_out)
    case = Case(loop, slot, make_module, make_data, {"max_epochs": max_epochs, **(trainer_arguments or {})})
    for point, check in POINTS.items():
        if point in leave_out:
            continue
        try:
            check(case)
        except Broken as broken:
            raise ContractError(f'{case.name} in {case.path} does not keep "{point}": {broken}', point) from None
        except Exception as error:
            raise ContractError(
                f'{case.name} in {case.path} does not keep "{point}": {type(error).__name__}: {error}', point
            ) from error


def _known(names: Iterable[str]) -> list[str]:
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in POINTS:
            raise ConfigurationError(
                f"There is no point {name!r} to leave out; there are {list(POINTS)}.{did_you_mean(name, POINTS)}"
            )
    return names
