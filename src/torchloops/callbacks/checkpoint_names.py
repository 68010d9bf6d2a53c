"""File names of checkpoints, made from a template and the values of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchloops.errors import ConfigurationError, did_you_mean

__all__ = ["checkpoint_name"]

_FIELD = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")


def checkpoint_name(template: str, values: Mapping[str, Any], with_names: bool) -> str:
    """Fill ``{name}`` and ``{name:.2f}`` in a template.

    Args:
        template: for instance ``"{epoch}-{val/loss:.2f}"``.
        values: numbers or tensors of one element, by name.
        with_names: write ``epoch=3-val_loss=0.25`` instead of ``3-0.25``.

    Raises:
        ConfigurationError: a name has no value, or a format does not fit it.
    """

    def fill(field: re.Match[str]) -> str:
        name, form = field[1], field[2] or ""
        if name not in values:
            raise ConfigurationError(
                f"ModelCheckpoint(filename={template!r}) names {name!r}, which was not logged; there are "
                f"{sorted(values)}." + did_you_mean(name, values)
            )
        value = values[name]
        try:
            text = format(value.item() if isinstance(value, Tensor) else value, form)
        except ValueError as error:
            raise ConfigurationError(f"ModelCheckpoint(filename={template!r}): {name}: {error}.") from error
        return f"{name.replace('/', '_')}={text}" if with_names else text

    return _FIELD.sub(fill, template)
