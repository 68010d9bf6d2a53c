"""ModelSummary: the parts of a module, their parameters and modes, before it is trained."""

from __future__ import annotations

from typing import Any

from torch import nn

from torchloops.callbacks.callback import Callback
from torchloops.errors import ConfigurationError

__all__ = ["ModelSummary", "summarize"]


class ModelSummary(Callback):
    """Prints a table of the module's parts at the start of a fit, on the first process.

    Args:
        max_depth: levels of parts; -1: all. 0: the totals alone.
        console: a ``rich.console.Console``. Default: rich's own, on standard output.
        terminal_only: print nothing where the console is no terminal (a file, a notebook).

    Raises:
        ConfigurationError: another depth.
    """

    def __init__(self, max_depth: int = 1, console: Any = None, terminal_only: bool = False) -> None:
        if not isinstance(max_depth, int) or max_depth < -1:
            raise ConfigurationError(f"ModelSummary(max_depth=...) is -1 for all levels, 0 or more; got {max_depth!r}.")
        self.max_depth = max_depth
        self.console = console
        self.terminal_only = terminal_only

    def fresh(self) -> ModelSummary:
        """This one: it prints for the outermost run alone."""
        return self

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        if trainer.run_name or not trainer.is_global_zero:
            return
        import rich

        console = self.console or rich.get_console()
        if console.is_terminal or not self.terminal_only:
            console.print(summarize(module, self.max_depth))


def summarize(module: nn.Module, max_depth: int = 1) -> Any:
    """A table of the parts of ``module``: name, type, number of parameters, mode; and the totals below.

    Args:
        module: any module.
        max_depth: levels of parts; -1: all. 0: the totals alone.

    Returns:
        a ``rich.table.Table``, to be printed.
    """
    from rich.table import Table

    table = Table(title=type(module).__name__, caption=_totals(module), caption_justify="left")
    for name, justify in (("name", "left"), ("type", "left"), ("parameters", "right"), ("mode", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name, part in module.named_modules():
        depth = name.count(".") + 1 if name else 0
        if depth and (max_depth == -1 or depth <= max_depth):
            table.add_row(name, type(part).__name__, _count(part.parameters()), "train" if part.training else "eval")
    return table


def _totals(module: nn.Module) -> str:
    parameters = list(module.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    sizes = [tensor.numel() * tensor.element_size() for tensor in parameters if not nn.parameter.is_lazy(tensor)]
    return (
        f"{_count(trained)} trainable parameters, {_count(frozen)} that are not; "
        f"{sum(sizes) / 2**20:.1f} MiB as they are stored"
    )


def _count(parameters: Any) -> str:
    """How many numbers there are; "?" where lazy layers do not know yet."""
    found = list(parameters)
    if any(nn.parameter.is_lazy(parameter) for parameter in found):
        return "?"
    return f"{sum(parameter.numel() for parameter in found):,}"
