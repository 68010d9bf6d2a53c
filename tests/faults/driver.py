"""Kill a scenario again and again, resume it each time, and compare what is left with the uninterrupted run."""

from __future__ import annotations

import json
import random
import shutil
import signal
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outcome import differences
from server import Server

__all__ = ["MOST_KILLS", "Driver", "NotTheSame", "Uninterrupted"]

MOST_KILLS = 10  # of one run, which then goes to its end
ALWAYS = "0 seconds"
SELDOM = ("3 steps", "1 epoch", None)


class NotTheSame(AssertionError):
    """A run that was killed and resumed ended otherwise than the uninterrupted one, or did not end."""


@dataclass
class Uninterrupted:
    """What the run leaves that nobody kills.

    Args:
        outcome: see `outcome.collect`.
        counts: how often each instant came.
        seconds: duration.
    """

    outcome: dict[str, str]
    counts: dict[str, int]
    seconds: float


@dataclass
class Driver:
    """Runs scenarios on a server.

    Args:
        server: makes the attempts.
        folder: where runs go; each has a folder of its own below it.

    Attributes:
        survived: kills after which the run ended as the uninterrupted one, by scenario.
    """

    server: Server
    folder: Path
    survived: dict[str, int] = field(default_factory=dict)
    _known: dict[str, Uninterrupted] = field(default_factory=dict)

    def uninterrupted(self, scenario: str) -> Uninterrupted:
        """The whole run of a scenario, saved at every safe point; made once."""
        if scenario not in self._known:
            folder = self._new_folder()
            answer = self.attempt(scenario, ALWAYS, folder)
            if answer["status"] != 0:
                raise NotTheSame(f"{scenario} does not run through:\n{answer['said']}")
            report = _report(folder)
            self._known[scenario] = Uninterrupted(report["outcome"], report["counts"], answer["seconds"])
            shutil.rmtree(folder)
        return self._known[scenario]

    def attempt(self, scenario: str, saving: str | None, folder: Path, **request: Any) -> dict[str, Any]:
        """One process; see `Server.run`."""
        return self.server.run({"scenario": scenario, "saving": saving, "folder": str(folder), **request})

    def survive(self, scenario: str, kills: int, seed: int = 0) -> int:
        """Kill runs of a scenario until there were ``kills`` kills; return how many there were.

        A run is killed up to `MOST_KILLS` times, by turns at random times and at instants drawn by name and count.
        How often it saves is drawn anew for each attempt.

        Raises:
            NotTheSame: with the kills that led there, which come again with the same seed, times but roughly.
        """
        done, run = 0, 0
        while done < kills:
            done += self._survive_one_run(scenario, random.Random(f"{scenario}, {seed}, {run}"), kills - done)
            run += 1
        self.survived[scenario] = self.survived.get(scenario, 0) + done
        return done

    def _survive_one_run(self, scenario: str, draw: random.Random, most: int) -> int:
        whole, folder = self.uninterrupted(scenario), self._new_folder()
        kills: list[str] = []
        elapsed = 0.0
        while True:
            saving, kill = draw_kill(whole, draw, elapsed)
            kill = kill if len(kills) < min(most, MOST_KILLS) else {}
            answer = self.attempt(scenario, saving, folder, resume=bool(kills), **kill)
            if answer["status"] == 0:
                break
            if answer["status"] != -signal.SIGKILL or not kill:
                raise NotTheSame(f"{scenario}: {_story(kills)}, it failed with {answer['status']}:\n{answer['said']}")
            kills.append(_described(saving, kill))
            elapsed += answer["seconds"]
        found = differences(whole.outcome, _report(folder)["outcome"])
        if found:
            lines = "\n".join(found[:20])
            raise NotTheSame(
                f"{scenario}: {_story(kills)}, {len(found)} things differ, uninterrupted | resumed:\n{lines}"
            )
        shutil.rmtree(folder)
        return len(kills)

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))


def draw_kill(whole: Uninterrupted, draw: random.Random, elapsed: float) -> tuple[str | None, dict[str, Any]]:
    """How often to save, and a time or the n-th time of an instant, for an attempt that goes on after ``elapsed``."""
    if draw.random() < 0.5:
        delay = draw.uniform(0.0, max(whole.seconds - elapsed, 0.3 * whole.seconds))
        return draw.choice((ALWAYS, *SELDOM)), {"delay": delay}
    at = draw.choice(sorted(whole.counts))
    strike = {"at": at, "count": draw.randint(1, whole.counts[at])}
    return ALWAYS, {"strike": strike, "seed": draw.randrange(1000)}


def _described(saving: str | None, kill: dict[str, Any]) -> str:
    if "delay" in kill:
        return f"after {kill['delay']:.3f} s (saved every {saving})"
    return f"{kill['strike']['at']} number {kill['strike']['count']}"


def _story(kills: list[str]) -> str:
    return f"killed {'; '.join(kills) or 'never'}; resumed after each kill"


def _report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "attempt.json").read_text(encoding="utf-8"))
