"""Kill a scenario again and again, resume it each time, and compare what is left with the uninterrupted run."""

from __future__ import annotations

import json
import random
import signal
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outcome import differences
from server import Server

__all__ = ["MOST_KILLS", "Driver", "NotTheSame", "Uninterrupted"]

MOST_KILLS = 10  # of one run, which then goes to its end


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
    _known: dict[tuple[str, str | None], Uninterrupted] = field(default_factory=dict)

    def uninterrupted(self, scenario: str, saving: str | None) -> Uninterrupted:
        """The whole run of a scenario, made once."""
        if (scenario, saving) not in self._known:
            folder = self._new_folder()
            answer = self.attempt(scenario, saving, folder)
            if answer["status"] != 0:
                raise NotTheSame(f"{scenario} does not run through:\n{answer['said']}")
            report = _report(folder)
            self._known[scenario, saving] = Uninterrupted(report["outcome"], report["counts"], answer["seconds"])
        return self._known[scenario, saving]

    def attempt(self, scenario: str, saving: str | None, folder: Path, **request: Any) -> dict[str, Any]:
        """One process; see `Server.run`."""
        return self.server.run({"scenario": scenario, "saving": saving, "folder": str(folder), **request})

    def survive(self, scenario: str, saving: str | None, kills: int, seed: int = 0) -> int:
        """Kill runs until there were ``kills`` kills; return how many there were.

        Each run is killed up to `MOST_KILLS` times, by turns at random times and at instants drawn by name and count.

        Raises:
            NotTheSame: with the kills that led there, which come again with the same seed.
        """
        done, run = 0, 0
        while done < kills:
            draw = random.Random(f"{scenario}, {saving}, {seed}, {run}")
            done += self.survive_one_run(scenario, saving, draw, min(MOST_KILLS, kills - done))
            run += 1
        return done

    def survive_one_run(self, scenario: str, saving: str | None, draw: random.Random, most: int) -> int:
        """Kill one run up to ``most`` times; return how many times it was."""
        whole = self.uninterrupted(scenario, saving)
        folder = self._new_folder()
        kills: list[str] = []
        elapsed = 0.0
        while True:
            kill = draw_kill(whole, draw, elapsed) if len(kills) < most else {}
            answer = self.attempt(scenario, saving, folder, resume=bool(kills), **kill)
            if answer["status"] == 0:
                break
            if answer["status"] != -signal.SIGKILL or not kill:
                raise NotTheSame(f"{_story(scenario, saving, kills)}, it failed:\n{answer['said']}")
            kills.append(_described(kill))
            elapsed += answer["seconds"]
        found = differences(whole.outcome, _report(folder)["outcome"])
        if found:
            raise NotTheSame(
                f"{_story(scenario, saving, kills)}, {len(found)} things differ, uninterrupted | resumed:\n"
                + "\n".join(found[:20])
            )
        self.survived[scenario] = self.survived.get(scenario, 0) + len(kills)
        return len(kills)

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))


def draw_kill(whole: Uninterrupted, draw: random.Random, elapsed: float = 0.0) -> dict[str, Any]:
    """A time, or the n-th time of an instant, for the request of an attempt that goes on after ``elapsed`` seconds."""
    if draw.random() < 0.5:
        return {"delay": draw.uniform(0.0, max(whole.seconds - elapsed, 0.3 * whole.seconds))}
    at = draw.choice(sorted(whole.counts))
    return {"strike": {"at": at, "count": draw.randint(1, whole.counts[at])}, "seed": draw.randrange(1000)}


def _described(kill: dict[str, Any]) -> str:
    if "delay" in kill:
        return f"after {kill['delay']:.3f} s"
    return f"{kill['strike']['at']} number {kill['strike']['count']}"


def _story(scenario: str, saving: str | None, kills: list[str]) -> str:
    return f"{scenario}, saved every {saving}: killed {'; '.join(kills) or 'never'}; resumed after each kill"


def _report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "attempt.json").read_text(encoding="utf-8"))
