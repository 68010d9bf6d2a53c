"""One attempt at a scenario in this process: ``python attempt.py JSON``, or in a child of `server.py`.

A request is ``{"scenario": name, "folder": path, "saving": checkpoint_every, "resume": bool, "strike": see Instants}``.
A whole run writes ``attempt.json`` into the folder: the outcome, and how often each instant came.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

__all__ = ["attempt"]

SEED = 7
RUN = Path("run")


def attempt(request: dict[str, Any]) -> None:
    """Run a scenario to its end, from its start or from its last checkpoint."""
    import torch
    from instants import Instants
    from outcome import collect
    from scenarios import find_scenario

    from torchloops import seed_everything
    from torchloops.errors import PossibleUserWarning, ResumeWarning

    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", ResumeWarning)
    warnings.simplefilter("ignore", PossibleUserWarning)
    os.chdir(request["folder"])
    seed_everything(SEED)
    study = find_scenario(request["scenario"])(RUN, request.get("saving"))
    if study.trainer is None:
        warnings.simplefilter("default")  # a recipe: matplotlib and others warn of themselves
    instants = Instants(request.get("strike"), request.get("seed", 0))
    instants.install(study.trainer)
    try:
        study.fit("last" if request.get("resume") else None)
    finally:
        instants.remove()
    outcome = collect(RUN, study.results())
    report = {"outcome": outcome, "counts": instants.counts}
    Path("attempt.part").write_text(json.dumps(report), encoding="utf-8")
    os.replace("attempt.part", "attempt.json")


if __name__ == "__main__":
    attempt(json.loads(sys.argv[1]))
