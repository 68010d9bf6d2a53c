"""What `ImageClassifier.predict` gives back: probabilities, labels or logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from torchloops.errors import ConfigurationError

__all__ = ["Labels", "Logits", "Output", "Probabilities"]


class Output(Protocol):
    """Turns logits ``(B, num_classes)`` into what a user wants to see, one entry per image."""

    def __call__(self, logits: Tensor, classes: Sequence[str]) -> Any: ...


@dataclass(frozen=True)
class Probabilities:
    """The probability of every class: a float tensor ``(B, num_classes)`` whose rows sum to 1."""

    def __call__(self, logits: Tensor, classes: Sequence[str] = ()) -> Tensor:
        return logits.softmax(dim=-1)


@dataclass(frozen=True)
class Logits:
    """The network's output as it is: a tensor ``(B, num_classes)``."""

    def __call__(self, logits: Tensor, classes: Sequence[str] = ()) -> Tensor:
        return logits


@dataclass(frozen=True)
class Labels:
    """The name of the most probable class: a list of B strings.

    Args:
        classes: names in the order of the outputs; default: those of the data the model was trained with, and
            where these are unknown, class indices (a list of B ints).

    Raises:
        ConfigurationError: the number of names differs from the number of outputs.
    """

    classes: Sequence[str] | None = None

    def __call__(self, logits: Tensor, classes: Sequence[str] = ()) -> list[Any]:
        names = list(self.classes if self.classes is not None else classes)
        chosen = logits.argmax(dim=-1).tolist()
        if not names:
            return chosen
        if len(names) != logits.shape[-1]:
            raise ConfigurationError(f"Labels has {len(names)} classes, but the model has {logits.shape[-1]} outputs.")
        return [names[index] for index in chosen]
