"""The options of a recipe: the signature of its ``main``, and those that every recipe has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from cyclopts import Group, Parameter

from torchloops.cli.recipes import Recipe
from torchloops.errors import ConfigurationError

__all__ = ["COMMON", "QUIET", "VERBOSE", "own_parameters"]

_RUN = Group("Run", sort_key=10)

QUIET = Annotated[bool, Parameter(name=["--quiet", "-q"], negative=(), group=_RUN, help="Print only the results.")]
VERBOSE = Annotated[
    bool, Parameter(name=["--verbose", "-v"], negative=(), group=_RUN, help="Print more; full tracebacks.")
]


def _common(
    *,
    config: Annotated[
        list[str] | None,
        Parameter(
            name=["--config", "-c"],
            negative=(),
            group=_RUN,
            help="YAML file of options, or the name of one of the recipe's own; may be repeated, later wins.",
        ),
    ] = None,
    fast: Annotated[
        bool, Parameter(negative=(), group=_RUN, help="A small run that ends within 20 s on two cores.")
    ] = False,
    dry_run: Annotated[bool, Parameter(negative=(), group=_RUN, help="Print the options as YAML and stop.")] = False,
    out: Annotated[str, Parameter(group=_RUN, help="Folder for the folders of all runs.")] = "runs",
    name: Annotated[str | None, Parameter(group=_RUN, help="Added to the number of the run: 003_NAME.")] = None,
    quiet: QUIET = False,
    verbose: VERBOSE = False,
) -> None:
    """The options that every recipe has."""


COMMON = inspect.signature(_common, eval_str=True).parameters


def own_parameters(main: Callable[..., Any], recipe: Recipe, defaults: Mapping[str, Any]) -> list[inspect.Parameter]:
    """The options of ``main`` after its first argument, as keywords.

    Args:
        main: of the recipe.
        recipe: for messages.
        defaults: win over those of the signature.

    Raises:
        ConfigurationError: ``main`` takes no run folder, or an option that every recipe has.
    """
    parameters = list(inspect.signature(main, eval_str=True).parameters.values())
    clash = [parameter.name for parameter in parameters if parameter.name in COMMON]
    if not parameters or clash:
        reason = f"takes {', '.join(clash)}, which every recipe has" if clash else "takes no argument"
        raise ConfigurationError(
            f"main of {recipe.file} {reason}. Expected: main(run, *, option=default, ...), where run is the "
            f"run folder and no option is named {', '.join(COMMON)}."
        )
    return [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, default=defaults.get(parameter.name, parameter.default))
        for parameter in parameters[1:]
    ]
