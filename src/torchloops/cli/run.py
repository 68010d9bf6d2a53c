"""``torchloops run``: from the words on the command line to a recipe's ``main`` in a run folder."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from cyclopts import App

from torchloops.cli.config import as_source, configuration_files, read_yaml
from torchloops.cli.launch import launch, set_environment
from torchloops.cli.options import COMMON, own_parameters
from torchloops.cli.recipes import Recipe, find_recipe
from torchloops.cli.record import RunRecord
from torchloops.report import RunFolder, to_yaml

__all__ = ["run_recipe"]


def run_recipe(recipe_name: str, words: Sequence[str]) -> int:
    """Run a recipe and return the exit code.

    Args:
        recipe_name: a name, a folder or a ``.py`` file.
        words: what follows the recipe on the command line.

    Raises:
        CycloptsError: there is no such recipe, or an option or a configuration file is wrong.
        ConfigurationError: the recipe's file has no ``main`` that can be run.
    """
    set_environment()
    recipe = find_recipe(recipe_name)
    command = ["torchloops", "run", recipe_name, *words]
    app = App(name=f"torchloops run {recipe_name}", version_flags=[], suppress_keyboard_interrupt=False)
    app.config = [_ConfigFiles(recipe)]
    app.default(_with_common_options(recipe, command))
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
            as_source(read_yaml(path), path)(app, commands, arguments)


def _with_common_options(recipe: Recipe, command: list[str]) -> Callable[..., None]:
    """A function whose signature is the recipe's, with the common options added: cyclopts' schema."""
    main = recipe.load_main()
    own = own_parameters(main, recipe, read_yaml(recipe.configs["config"]) if "config" in recipe.configs else {})

    def begin(**given: Any) -> None:
        # Only what somebody said is given: the rest has its default.
        options = {parameter.name: given.get(parameter.name, parameter.default) for parameter in own}
        common = {name: given.get(name, parameter.default) for name, parameter in COMMON.items()}
        _begin(recipe, command, options, **common)

    begin.__signature__ = inspect.Signature([*own, *COMMON.values()])  # type: ignore[attr-defined]
    begin.__doc__ = inspect.getdoc(main)
    return begin


def _begin(
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
    run = RunFolder.create(out, recipe.name, name=name, quiet=quiet, verbose=verbose)
    launch(recipe, RunRecord.of(recipe), run, options, command)
