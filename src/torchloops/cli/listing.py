"""``torchloops ls``: what there is to run."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from torchloops.cli.recipes import Recipe, find_recipe, shipped_recipes

__all__ = ["list_recipes", "show_recipe"]


def list_recipes() -> None:
    """Print every recipe: its name and line, and below it what to expect."""
    console = Console(highlight=False)
    for recipe in shipped_recipes():
        console.print(f"[bold]{recipe.name}[/]  {escape(recipe.description)}")
        console.print(f"  {_expectation(recipe)}; configs: {', '.join(recipe.configs)}\n", markup=False)
    console.print("Next: torchloops run RECIPE, or torchloops ls RECIPE for more.")


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
        console.print(f"  expected  {_expectation(recipe)}", markup=False)
    console.print(f"  run       torchloops run {name}", markup=False)
    console.print(f"  options   torchloops run {name} --help", markup=False)


def _expectation(recipe: Recipe) -> str:
    minutes, score = recipe.expected.get("minutes"), recipe.expected.get("score")
    time = f"{minutes} minutes on 2 cores" if minutes is not None else "time not measured"
    return f"{time}; {score}" if score else time
