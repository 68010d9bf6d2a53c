"""``torchloops ls``: what there is to run."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from torchloops.cli.recipes import Recipe, find_recipe, shipped_recipes

__all__ = ["list_recipes", "show_recipe"]


def list_recipes() -> None:
    """Print a table with one row a recipe."""
    table = Table(box=None, pad_edge=False)
    for heading in ("recipe", "what it does", "configs", "minutes, 2 cores", "expected"):
        table.add_column(heading, no_wrap=heading == "recipe")
    for recipe in shipped_recipes():
        table.add_row(*_row(recipe))
    console = Console()
    console.print(table)
    console.print("\nTry one: torchloops run active_learning", highlight=False)


def show_recipe(name: str) -> None:
    """Print one recipe: what it does, where it stands, its configurations, what to type."""
    recipe = find_recipe(name)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{recipe.name}: {recipe.description}")
    console.print(f"  file      {recipe.file}", markup=False)
    if recipe.folder and (recipe.folder / "README.md").is_file():
        console.print(f"  card      {recipe.folder / 'README.md'}", markup=False)
    if recipe.configs:
        console.print(f"  configs   {', '.join(recipe.configs)}", markup=False)
    if recipe.expected:
        console.print(f"  expected  {_score(recipe)}, in {_minutes(recipe)} minutes on 2 cores", markup=False)
    console.print(f"  run       torchloops run {name}", markup=False)
    console.print(f"  options   torchloops run {name} --help", markup=False)


def _row(recipe: Recipe) -> tuple[str, ...]:
    return recipe.name, recipe.description, ", ".join(recipe.configs), _minutes(recipe), _score(recipe)


def _minutes(recipe: Recipe) -> str:
    return str(recipe.expected.get("minutes", "not measured"))


def _score(recipe: Recipe) -> str:
    return str(recipe.expected.get("score", "not measured"))
