"""``torchloops resume``: go on with a run in its folder, with the options it began with."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from torchloops.cli.changes import check_changes, may_change
from torchloops.cli.config import as_source, read_yaml
from torchloops.cli.launch import launch, resume_command, set_environment
from torchloops.cli.options import QUIET, VERBOSE, own_parameters
from torchloops.cli.recipes import Recipe
from torchloops.cli.record import RunRecord
from torchloops.files import given_path
from torchloops.report import RunFolder

__all__ = ["resume_run"]

_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_COMMON = [
    inspect.Parameter("quiet", _KEYWORD, default=False, annotation=QUIET),
    inspect.Parameter("verbose", _KEYWORD, default=False, annotation=VERBOSE),
]


def resume_run(folder_name: str, words: Sequence[str]) -> int:
    """Go on with a run and return the exit code.

    Args:
        folder_name: the run folder.
        words: what follows it on the command line.

    Raises:
        CycloptsError: it is no run folder, its recipe is gone or takes other options now, or an option was changed
            that may not change.
        ConfigurationError: another process works in the folder.
    """
    set_environment()
    folder = given_path(folder_name, "RUN_DIR")
    record = RunRecord.read(folder)
    recipe = record.find_recipe(folder)
    app = App(name=f"torchloops resume {folder_name}", version_flags=[], suppress_keyboard_interrupt=False)
    app.default(_with_options_of_the_run(recipe, record, folder, ["torchloops", "resume", folder_name, *words]))
    app(words, exit_on_error=False, print_error=False, result_action="return_value")
    return 0


def _with_options_of_the_run(
    recipe: Recipe, record: RunRecord, folder: Path, command: list[str]
) -> Callable[..., None]:
    """A function with the recipe's signature, whose defaults are the run's options: cyclopts' schema."""
    before = _read_options(recipe, folder / "config.yaml")
    own = own_parameters(recipe.load_main(), recipe, before)
    free = may_change(recipe, before)

    def resume(**given: Any) -> None:
        quiet, verbose = given.pop("quiet", False), given.pop("verbose", False)
        check_changes(recipe, before, given, begin_anew=_begin_anew(record, folder))
        options = {**before, **given}
        if record.finished and not any(options[name] != before[name] for name in recipe.extendable):
            _say_finished(recipe, folder, quiet)
            return
        run = RunFolder(folder, quiet=quiet, verbose=verbose, resumed=True)
        launch(recipe, record, run, options, command)

    shown = [parameter if parameter.name in free else _hidden(parameter) for parameter in own]
    resume.__signature__ = inspect.Signature([*shown, *_COMMON])  # type: ignore[attr-defined]
    resume.__doc__ = _help(recipe, folder)
    return resume


def _hidden(parameter: inspect.Parameter) -> inspect.Parameter:
    """An option that may not change: known, so that it can be refused by name, and not shown."""
    return parameter.replace(annotation=Annotated[parameter.annotation, Parameter(show=False)])


def _help(recipe: Recipe, folder: Path) -> str:
    """What --help says, with the recipe's own words about its options."""
    arguments = inspect.getdoc(recipe.load_main()) or ""
    _, heading, rest = arguments.partition("Args:\n")
    return (
        f"Go on with {folder}, a run of {recipe.name}. Its other options stay as they were when it began.\n\n"
        f"{heading}{rest}"
    )


def _read_options(recipe: Recipe, file: Path) -> dict[str, Any]:
    """The options the run began with, converted as ``main`` wants them.

    Raises:
        CycloptsError: there is no such file, or the recipe takes other options now.
    """
    if not file.is_file():
        raise CycloptsError(f"{file} is missing: nobody knows the options of the run. Put the file back.")
    values = read_yaml(file)
    own = own_parameters(recipe.load_main(), recipe, {name: None for name, value in values.items() if value is None})
    found: dict[str, Any] = {}

    def collect(**given: Any) -> None:
        found.update({parameter.name: given.get(parameter.name, parameter.default) for parameter in own})

    collect.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
    app = App(name=recipe.name, version_flags=[], help_flags=[])
    app.config = [as_source(values, file)]
    app.default(collect)
    try:
        app([], exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        raise CycloptsError(
            f"{file} does not fit the recipe {recipe.file} as it is now: {error} Resume with the recipe as it was "
            f"when the run began, or start a new run."
        ) from error
    return found


def _begin_anew(record: RunRecord, folder: Path) -> str:
    return shlex.join(["torchloops", "run", record.file or record.recipe, "-c", str(folder / "config.yaml")])


def _say_finished(recipe: Recipe, folder: Path, quiet: bool) -> None:
    if quiet:
        return
    print(f"{folder} is finished: nothing is left to do.")
    if recipe.extendable:
        options = " or ".join(f"--{name.strip('_').replace('_', '-')}" for name in recipe.extendable)
        print(f"next   {resume_command(folder)} with a higher {options} goes on further")
