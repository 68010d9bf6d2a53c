"""The wheel, installed in an environment of its own, runs a shipped recipe."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def run(*words: str | Path, cwd: Path, **options) -> str:
    """Run a command away from the checkout and return what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the checkout, with the build backend of this environment."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of a new environment: the wheel itself, and this environment's other packages.

    The wheel stands before them on the path, so that not one file of the checkout is used.
    """
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    pip = [sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check"]
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    here = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(here) + "\n", encoding="utf-8")
    return folder / "bin"


def test_wheel_holds_recipes_and_data_sets_below_the_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "torchloops/_shipped/recipes/active_learning/recipe.py" in names
    assert "torchloops/_shipped/recipes/active_learning/config.yaml" in names
    assert "torchloops/_shipped/datasets/digits/loader.py" in names
    assert not [name for name in names if "__pycache__" in name]
    assert {name.partition("/")[0] for name in names} == {"torchloops", "torchloops-0.1.0.dist-info"}


def test_installed_wheel_does_not_use_the_checkout(installed, tmp_path):
    where = run(installed / "python", "-c", "import torchloops; print(torchloops.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    listed = run(installed / "torchloops", "ls", "active_learning", cwd=tmp_path)
    assert "_shipped" in listed
    assert str(ROOT) not in listed


def test_installed_wheel_runs_the_recipe(installed, tmp_path):
    run(installed / "torchloops", "run", "active_learning", "--fast", cwd=tmp_path)
    assert (tmp_path / "runs" / "active_learning" / "001" / "report.html").is_file()


def test_checkout_is_found_where_nothing_is_shipped_beside_the_package():
    from torchloops.shipped import shipped_folder

    assert shipped_folder("recipes") == ROOT / "recipes"
    assert shipped_folder("datasets") == ROOT / "datasets"
