"""Logged values as a table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["print_values"]


def print_values(stage: str, values: Sequence[Mapping[str, float]], console: Any = None) -> None:
    """Print what an evaluation logged, a row a name and a column a data loader.

    Args:
        stage: "validate" or "test".
        values: one dict a data loader; nothing is printed where nothing was logged.
        console: a ``rich.console.Console``. Default: rich's own, on standard output.
    """
    if not any(values):
        return
    import rich
    from rich.table import Table

    several = len(values) > 1
    table = Table()
    table.add_column(stage)
    for index in range(len(values)):
        table.add_column(f"data loader {index}" if several else "value", justify="right")
    names = dict.fromkeys(name.removesuffix(f"/dataloader_idx_{i}") for i, one in enumerate(values) for name in one)
    for name in names:
        found = [one.get(name, one.get(f"{name}/dataloader_idx_{i}")) for i, one in enumerate(values)]
        table.add_row(name, *("" if value is None else f"{value:.6g}" for value in found))
    (console or rich.get_console()).print(table)
