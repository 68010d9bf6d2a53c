"""Imports point one way, and `import torchloops` stays light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import torchloops

PACKAGE = Path(torchloops.__file__).parent

BASE = {
    "data",
    "errors",
    "files",
    "folders",
    "hooks",
    "hparams",
    "module",
    "module_hooks",
    "named",
    "orphans",
    "paths",
    "schema",
    "seeding",
    "signals",
    "values",
}
ENGINE_ROOM = BASE | {"loops", "trainer", "callbacks", "loggers", "profilers"}
LIBRARY = ENGINE_ROOM | {"advanced", "vision"}

MAY_IMPORT = {
    "cli": LIBRARY | {"annotation", "report", "shipped"},
    "annotation": {"errors", "files", "folders", "signals"},
    "report": LIBRARY | {"annotation"},
    "shipped": LIBRARY,
    "testing": LIBRARY,
    "advanced": ENGINE_ROOM | {"annotation"},
    "vision": ENGINE_ROOM,
    "trainer": ENGINE_ROOM,
    "callbacks": ENGINE_ROOM,
    "loggers": ENGINE_ROOM,
    "profilers": {"errors"},
    "loops": BASE,
    "module": BASE - {"data"},
    "module_hooks": {"hooks"},
    "data": {"errors", "hooks", "hparams", "module", "module_hooks", "seeding"},
    "hooks": {"errors"},
    "hparams": BASE,
    "errors": {"seeding"},
    "files": {"errors"},
    "folders": {"errors"},
    "named": {"errors"},
    "paths": set(),
    "orphans": set(),
    "schema": {"errors"},
    "signals": set(),
    "seeding": BASE,
    "values": {"errors", "seeding"},
    "__main__": {"cli"},
    "__init__": LIBRARY,
}
"""From a folder or file of the package to what it may import from the package, besides itself."""

UPWARD = {
    "seeding.py": "torchloops.trainer.engine.",  # Fabric seeds, and only the engine talks to Fabric
    "hparams.py": "torchloops.trainer.checkpoint_file.",  # load_from_checkpoint is a method of modules and their data
    "advanced/active_learning/annotated.py": "torchloops.vision.data.",  # from_folder reads pictures
}
"""The few files that reach up, inside a function, and to what."""

HEAVY = {"baal", "sklearn", "torchvision", "matplotlib", "pandas"}


def unit_of(file: Path) -> str:
    """The folder or top-level file of the package that a source file belongs to."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources() -> list[Path]:
    return sorted(file for file in PACKAGE.rglob("*.py") if "_shipped" not in file.parts)


def imported_names(file: Path, *, with_type_checking: bool) -> Iterator[str]:
    """Dotted names of what a file imports, at the top or inside functions."""
    pending: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not with_type_checking:
            pending.extend(node.orelse)
        else:
            pending.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_one_way(file):
    unit = unit_of(file)
    allowed = MAY_IMPORT[unit] | {unit}
    ours = [name for name in imported_names(file, with_type_checking=False) if name.startswith("torchloops.")]
    upward = UPWARD.get(str(file.relative_to(PACKAGE)), "no exception")
    wrong = [name for name in ours if name.split(".")[1] not in allowed and not name.startswith(upward)]
    assert not wrong, f"{unit} may not import {wrong}"


OF_FABRIC = ["loggers/tensorboard.py", "module_hooks.py", "trainer/engine.py"]
"""Who imports Fabric: its TensorBoard logger, its function that moves a batch, and for all the rest the engine."""


def test_only_the_engine_imports_fabric():
    users = [
        str(file.relative_to(PACKAGE))
        for file in sources()
        if any(
            name.split(".")[0] in ("lightning_fabric", "lightning", "pytorch_lightning")
            for name in imported_names(file, with_type_checking=True)
        )
    ]
    assert users == OF_FABRIC


def loaded_after(code: str) -> set[str]:
    """The top-level modules a fresh interpreter holds after running ``code``."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    return set(result.stdout.split())


def test_import_torchloops_is_light():
    assert not loaded_after("import torchloops") & (HEAVY | {"torch", "lightning_fabric"})


def test_import_of_report_and_cli_is_light():
    assert not loaded_after("import torchloops.report, torchloops.cli") & (HEAVY | {"torch", "numpy"})
