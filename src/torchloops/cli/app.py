"""The commands, and what becomes of their errors."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError

from torchloops.errors import TorchloopsError, WaitingForLabels
from torchloops.signals import ENDING_CODES

__all__ = ["DONE", "FAILED", "INTERRUPTED", "USAGE", "WAITING", "main"]

DONE, FAILED, USAGE, WAITING, INTERRUPTED = 0, 1, 2, 3, 130
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EROFS)

app = App(
    name="torchloops",
    help="Swap the training loop: run recipes, from one gradient step to active learning.",
    version=lambda: version("torchloops"),
    suppress_keyboard_interrupt=False,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: done; 1: failed; 2: the command line or a configuration file is wrong; 3: waiting for labels, with its state
    saved; 130: interrupted; 143: ended by SIGTERM, 138, 140, 152: by SIGUSR1, SIGUSR2, SIGXCPU.

    Args:
        argv: the words after ``torchloops``; default ``sys.argv[1:]``.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    verbose = "-v" in words or "--verbose" in words
    return _guarded(lambda: _dispatch(words), verbose=verbose)


def _dispatch(words: list[str]) -> int | None:
    if len(words) > 1 and words[0] == "run" and not words[1].startswith("-"):
        from torchloops.cli.run import run_recipe

        return run_recipe(words[1], words[2:])
    if len(words) > 1 and words[0] == "resume" and not words[1].startswith("-"):
        from torchloops.cli.resume import resume_run

        return resume_run(words[1], words[2:])
    return app(words, exit_on_error=False, print_error=False, result_action="return_value")


def _guarded(command: Callable[[], int | None], *, verbose: bool) -> int:
    try:
        return command() or DONE
    except CycloptsError as error:
        return _report_error(str(error), USAGE)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as error:
        if not isinstance(error.code, int) or error.code not in ENDING_CODES:
            raise
        print("\nTerminated.", file=sys.stderr)
        return error.code
    except WaitingForLabels as error:
        print(error, file=sys.stderr)
        return WAITING
    except (TorchloopsError, OSError) as error:
        # An operating-system error that names a file, or says that the disk is full, is no bug.
        if verbose or (isinstance(error, OSError) and error.filename is None and error.errno not in _FULL):
            raise
        return _report_error(str(error), FAILED)


def _report_error(message: str, code: int) -> int:
    print(f"Error: {message}", file=sys.stderr)
    return code


@app.command
def ls(recipe: str | None = None, /) -> None:
    """List the recipes, or one recipe with its configurations and card.

    Args:
        recipe: a name, a folder or a .py file.
    """
    from torchloops.cli.listing import list_recipes, show_recipe

    if recipe is None:
        list_recipes()
    else:
        show_recipe(recipe)


@app.command
def run(recipe: str, /) -> None:
    """Run a recipe: torchloops run RECIPE [-c FILE]... [--options].

    The recipe comes first, its options after it; `torchloops run RECIPE --help` lists them. Later
    configuration files win over earlier ones, and options win over all.

    Args:
        recipe: a name (see `torchloops ls`), a folder with a recipe.py, or a .py file with a `main`.
    """


@app.command
def resume(run_dir: str, /) -> None:
    """Go on with a run that was cut: torchloops resume RUN_DIR [--options].

    A run that was interrupted, killed or ended by a power cut goes on from its last checkpoint and ends as if nothing
    had happened. `torchloops resume RUN_DIR --help` lists the options that may change, such as more epochs.

    Args:
        run_dir: the folder of the run, such as runs/kfold/003.
    """


@app.command
def label(
    run_dir: str,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    open_browser: bool = True,
    double_share: float | None = None,
) -> None:
    """Open the labelling page of a run that waits for labels; Ctrl-C closes it.

    Args:
        run_dir: the folder of the run, such as runs/label_your_own/003, or a label store.
        host: address of the page; on any but this machine's own it asks for a token.
        port: of the page; default a free one.
        open_browser: open the page in this machine's browser.
        double_share: share of the pictures that a second person labels too.
    """
    from torchloops.cli.label import open_page

    open_page(run_dir, host=host, port=port, open_browser=open_browser, double_share=double_share)


@app.command
def env() -> None:
    """Print versions, device and git commit: the block for a bug report."""
    from torchloops.report.environment import collect_environment

    for key, value in collect_environment().items():
        print(f"{key}: {value}")
