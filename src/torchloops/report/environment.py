"""On what a run was made: versions, device, git commit."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ["collect_environment", "describe_device", "environment_changes"]

_PACKAGES = (
    "torchloops",
    "torch",
    "torchvision",
    "lightning-fabric",
    "torchmetrics",
    "scikit-learn",
    "baal",
    "timm",
)


def collect_environment() -> dict[str, Any]:
    """Versions, devices and the git commit of the working directory, as plain values.

    Packages that are not installed are left out; ``git_commit`` is None outside a repository and ends in
    ``-dirty`` where tracked files were changed.
    """
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **_versions(),
        "cuda": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
    }


def environment_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What may change a result in its last digits, in words: ``torch 2.14 is 2.15 now``; empty: nothing did.

    Args:
        before, now: as `collect_environment` returns them.
    """
    names = [name for name in (*before, *now) if name != "git_commit" and before.get(name) != now.get(name)]
    return ", ".join(f"{name} {before.get(name)} is {now.get(name)} now" for name in dict.fromkeys(names))


def describe_device(options: Mapping[str, Any]) -> str:
    """The device that ``options["accelerator"]`` leads to, in words: ``cpu (2 threads)``."""
    import torch

    accelerator = str(options.get("accelerator", "auto"))
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()})"
    if accelerator in ("auto", "cpu"):
        return f"cpu ({torch.get_num_threads()} threads)"
    return accelerator


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _git_commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None
