"""``torchloops run``: from the words on the command line to a recipe's ``main`` in a run folder."""

from __future__ import annotations

import inspect
import json
import os
import shlex
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from cyclopts import App, Group, Parameter
from cyclopts.config import Dict

from torchloops.cli.config import configuration_files, read_yaml
from torchloops.cli.recipes import Recipe, find_recipe
from torchloops.errors import ConfigurationError
from torchloops.report import RunFolder, compare_with_expected, describe_device, to_yaml

__all__ = ["run_recipe"]

_RUN = Group("Run", sort_key=10)


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
    quiet: Annotated[
        bool, Parameter(name=["--quiet", "-q"], negative=(), group=_RUN, help="Print only the results.")
    ] = False,
    verbose: Annotated[
        bool,
        Parameter(name=["--verbose", "-v"], negative=(), group=_RUN, help="Print more; full tracebacks."),
    ] = False,
) -> None:
    """The options that every recipe has."""


_COMMON = inspect.signature(_common, eval_str=True).parameters


def run_recipe(recipe_name: str, words: Sequence[str]) -> int:
    """Run a recipe and return the exit code.

    Args:
        recipe_name: a name, a folder or a ``.py`` file.
        words: what follows the recipe on the command line.

    Raises:
        CycloptsError: there is no such recipe, or an option or a configuration file is wrong.
        ConfigurationError: the recipe's file has no ``main`` that can be run.
    """
    # Set before torch loads: threads that wait by spinning make small models many times slower on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    recipe = find_recipe(recipe_name)
    main = recipe.load_main()
    command = ["torchloops", "run", recipe_name, *words]
    app = App(name=f"torchloops run {recipe_name}", version_flags=[], suppress_keyboard_interrupt=False)
    app.config = [_ConfigFiles(recipe)]
    app.default(_with_common_options(main, recipe, command))
    app(words, exit_on_error=False, print_error=False, result_action="return_value")
    return 0


class _ConfigFiles:
    """Gives cyclopts the options of the chained files: what the command line has said stays."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __call__(self, app: App, commands: tuple[str, ...], arguments: Any) -> None:
        given = {argument.name: [token.value for token in argument.tokens] for argument in arguments}
        files = configuration_files(self.recipe, given["--config"], fast=bool(given["--fast"]))
        for path in reversed(files):
            source = Dict(read_yaml(path), source=str(path), use_commands_as_keys=False)
            source(app, commands, arguments)


def _with_common_options(main: Callable[..., Any], recipe: Recipe, command: list[str]) -> Callable[..., None]:
    """A function whose signature is the recipe's, with the common options added: cyclopts' schema."""

    own = _own_parameters(main, recipe)

    def launch(**given: Any) -> None:
        # Only what somebody said is given: the rest has its default.
        options = {parameter.name: given.get(parameter.name, parameter.default) for parameter in own}
        common = {name: given.get(name, parameter.default) for name, parameter in _COMMON.items()}
        _launch(main, recipe, command, options, **common)

    launch.__signature__ = inspect.Signature([*own, *_COMMON.values()])  # type: ignore[attr-defined]
    launch.__doc__ = inspect.getdoc(main)
    return launch


def _own_parameters(main: Callable[..., Any], recipe: Recipe) -> list[inspect.Parameter]:
    """The options of ``main`` after its first argument, with the defaults of the recipe's ``config.yaml``."""
    parameters = list(inspect.signature(main, eval_str=True).parameters.values())
    clash = [parameter.name for parameter in parameters if parameter.name in _COMMON]
    if not parameters or clash:
        reason = f"takes {', '.join(clash)}, which every recipe has" if clash else "takes no argument"
        raise ConfigurationError(
            f"main of {recipe.file} {reason}. Expected: main(run, *, option=default, ...), where run is the "
            f"run folder and no option is named {', '.join(_COMMON)}."
        )
    defaults = read_yaml(recipe.configs["config"]) if "config" in recipe.configs else {}
    return [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, default=defaults.get(parameter.name, parameter.default))
        for parameter in parameters[1:]
    ]


def _launch(
    main: Callable[..., Any],
    recipe: Recipe,
    command: list[str],
    options: dict[str, Any],
    *,
    config: list[str] | None,
    fast: bool,
    dry_run: bool,
    out: str,
    name: str | None,
    quiet: bool,
    verbose: bool,
) -> None:
    if dry_run:
        print(to_yaml(options), end="")
        return
    folder = RunFolder.create(out, recipe.name, name=name, quiet=quiet, verbose=verbose)
    with folder as run:
        run.describe(options, shlex.join(command))
        run.say(f"recipe {recipe.name} - {run.path} - seed {options.get('seed')} - {describe_device(options)}")
        main(run, **options)
        _compare(run, recipe, options)


def _compare(run: RunFolder, recipe: Recipe, options: dict[str, Any]) -> None:
    """After a run with the recipe's own options, say whether the scores are those it promises."""
    settings: dict[str, Any] = {}
    for name in ("config", "fast"):
        settings |= read_yaml(recipe.configs[name]) if name in recipe.configs else {}
        if name in recipe.expected and settings == options:
            summary = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))
            differences = compare_with_expected(summary, recipe.expected[name])
            run.say("check  " + ("; ".join(differences) or "the scores are as expected"))
            return
