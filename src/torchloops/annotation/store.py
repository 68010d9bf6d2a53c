"""LabelStore: every answer that people gave, and what follows from them."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from torchloops.annotation.agreement import agreement_of
from torchloops.annotation.events import (
    ACTIONS,
    Agreement,
    Event,
    Progress,
    check_class_name,
    check_label,
    known_seconds,
)
from torchloops.annotation.queries import Answer, Query
from torchloops.annotation.tables import Database
from torchloops.errors import AnnotationError
from torchloops.files import given_path

__all__ = ["STORE_NAME", "LabelStore"]

STORE_NAME = "labels.sqlite"
"""The file's name where nobody gives another: beside the pictures, and in a run folder."""

LEASE = 60.0
"""Seconds for which a picture belongs to the tab that shows it."""

_DECIDED = "('label', 'skip', 'flag')"
# A sample's decision is its latest event that counts and is no second opinion and no "later".
_DECISION = f"""
    SELECT * FROM counting AS event WHERE second = 0 AND action IN {_DECIDED} AND id = (
        SELECT max(id) FROM counting WHERE sample = event.sample AND second = 0 AND action IN {_DECIDED})
"""
# A skip from before the question was asked is no answer to it: the sample came back.
_OPEN = f"""
    SELECT * FROM queries AS query WHERE id >= :first AND NOT EXISTS (
        SELECT 1 FROM ({_DECISION} AND sample = query.sample) WHERE action != 'skip' OR id > query.seen)
"""


class LabelStore:
    """A file of everything that people said about samples: a SQLite database that is only ever added to.

    What holds now, which sample has which label, follows from the events: an event that was undone does not count, and
    of those that do the last decides. A method that writes returns when what it wrote is on the disk. Several threads
    and processes may use one file at the same time.

    Args:
        path: of the file, made if missing; its folder must exist.

    Raises:
        AnnotationError: the file is no label store, is damaged, or cannot be made.

    Example:
        >>> import tempfile
        >>> store = LabelStore(Path(tempfile.mkdtemp(), "labels.sqlite"))
        >>> store.set_classes(["ant", "bee"])
        >>> store.ask([Query("5f")])
        >>> _ = store.record(Answer("5f", label="bee", annotator="Ada"))
        >>> store.labels()
        {'5f': 'bee'}
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = given_path(path, "store")
        self.database = Database(self.path)

    def __enter__(self) -> LabelStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; it may be opened again."""
        self.database.close()

    def _read(self, statement: str, values: Any = ()) -> list[sqlite3.Row]:
        return self.database.connection.execute(statement, values).fetchall()

    # settings and classes

    def setting(self, key: str, default: Any = None) -> Any:
        """A value that `set_setting` has kept."""
        found = self._read("SELECT value FROM settings WHERE key = ?", (key,))
        return json.loads(found[0][0]) if found else default

    def set_setting(self, key: str, value: Any) -> None:
        """Keep a value, as JSON has it, under a name."""
        with self.database.writing() as write:
            write.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, json.dumps(value)))

    @property
    def classes(self) -> list[str]:
        """Names of the classes; the position is the index of the class."""
        return [row[0] for row in self._read("SELECT name FROM classes ORDER BY position")]

    def set_classes(self, names: Iterable[str]) -> None:
        """Say which classes there are; later, the same ones or more at the end.

        Raises:
            AnnotationError: fewer than the store has, other names, the same name twice, or a name that cannot be used.
        """
        names = [check_class_name(name) for name in names]
        if len(set(names)) < len(names):
            raise AnnotationError(f"A class is named twice in {names}. Name each once.")
        with self.database.writing() as write:
            known = [row[0] for row in write.execute("SELECT name FROM classes ORDER BY position")]
            if known[: len(names)] != names[: len(known)]:
                raise AnnotationError(
                    f"{self.path} has labels of the classes {known}, and {names} were given. Give those classes in "
                    "that order, with new ones at the end; or name another store."
                )
            write.executemany("INSERT INTO classes VALUES (?, ?)", list(enumerate(names))[len(known) :])

    def add_class(self, name: str) -> int:
        """Add a class, and return its index; that of a class that is there already.

        Raises:
            AnnotationError: the model has no output to spare (setting ``max_classes``), or the name cannot be used.
        """
        name = check_class_name(name)
        most = self.setting("max_classes")
        with self.database.writing() as write:
            known = [row[0] for row in write.execute("SELECT name FROM classes ORDER BY position")]
            if name in known:
                return known.index(name)
            if most is not None and len(known) >= most:
                raise AnnotationError(
                    f"The model has {most} outputs, and there are {len(known)} classes: there is no room for {name!r}. "
                    "Begin a run with more classes, or with new_classes=1."
                )
            write.execute("INSERT INTO classes VALUES (?, ?)", (len(known), name))
            return len(known)

    def numbers(self) -> dict[str, int]:
        """The number of every sample that the store knows, by its name."""
        return {row["hash"]: row["number"] for row in self._read("SELECT * FROM samples ORDER BY number")}

    def files(self) -> dict[str, str]:
        """The name of the sample by path, of all files that were ever looked at."""
        return {row["path"]: row["hash"] for row in self._read("SELECT path, hash FROM files")}

    def path_of(self, sample: str) -> Path | None:
        """The file of a sample that was asked, in the pool; None: it was not, or the file is gone."""
        query = self.query(sample)
        if query is None:
            return None
        rows = self._read("SELECT path FROM files WHERE hash = ? ORDER BY path", (sample,))
        places = [Path(row["path"]) for row in rows]
        return next((path for path in places if path.is_file()), None)

    def paths(self, number: int) -> list[str]:
        """Where the files of a sample were when the pool was looked through last."""
        rows = self._read(
            "SELECT path FROM files JOIN samples ON files.hash = samples.hash WHERE number = ? ORDER BY path", (number,)
        )
        return [row["path"] for row in rows]

    # questions

    def ask(self, queries: Sequence[Query]) -> None:
        """Put these questions in the place of those that are open; asking the same again changes nothing.

        What was answered stays answered, and an answer to a question that is no longer open is taken all the same.
        """
        now = time.time()
        with self.database.writing() as write:
            first = self._first_open(write)
            before = write.execute("SELECT sample, round, rank FROM queries WHERE id >= ? ORDER BY id", (first,))
            if [tuple(row) for row in before] == [(query.sample, query.round, query.rank) for query in queries]:
                return
            last = write.execute("SELECT coalesce(max(id), 0) FROM queries").fetchone()[0]
            seen = write.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()[0]
            rows = [
                (now, q.round, q.rank, q.sample, q.path and os.fspath(q.path), q.score, q.guess, q.purpose, seen)
                for q in queries
            ]
            write.executemany(
                "INSERT INTO queries (time, round, rank, sample, path, score, guess, purpose, seen) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows,
            )  # fmt: skip
            write.execute("INSERT OR REPLACE INTO settings VALUES ('first_open', ?)", (json.dumps(last + 1),))
            write.execute("DELETE FROM claims")

    @staticmethod
    def _first_open(connection: sqlite3.Connection) -> int:
        found = connection.execute("SELECT value FROM settings WHERE key = 'first_open'").fetchone()
        return int(found[0]) if found else 1

    def queries(self, round: int | None = None) -> list[Query]:
        """All questions that were asked, or those of a round, in the order in which they were asked."""
        where, values = ("", ()) if round is None else ("WHERE round = ?", (round,))
        return [_query(row) for row in self._read(f"SELECT * FROM queries {where} ORDER BY id", values)]

    def query(self, sample: str) -> Query | None:
        """The last question about a sample; None: it was never asked."""
        found = self._read("SELECT * FROM queries WHERE sample = ? ORDER BY id DESC LIMIT 1", (sample,))
        return _query(found[0]) if found else None

    def open_queries(self) -> list[Query]:
        """The questions that wait for an answer, first asked first."""
        first = self._first_open(self.database.connection)
        return [_query(row) for row in self._read(f"{_OPEN} ORDER BY round, rank", {"first": first})]

    @property
    def latest_round(self) -> int | None:
        """The highest round of which something was asked."""
        return self._read("SELECT max(round) FROM queries")[0][0]

    def take(
        self, session: str, annotator: str, n: int = 6, lease: float = LEASE, first: str | None = None
    ) -> list[Query]:
        """The questions that a tab shows next; no other session gets them for ``lease`` seconds.

        Those that were put off come last; then second opinions on samples that others have labelled, where a share is
        asked twice. ``first`` names a sample that comes before the others, if it is open.
        """
        now = time.time()
        with self.database.writing() as write:
            first_open = self._first_open(write)
            put_off = (
                "EXISTS (SELECT 1 FROM counting WHERE sample = query.sample AND action = 'later' AND id > query.seen)"
            )
            rows = write.execute(
                f"{_OPEN} AND NOT EXISTS (SELECT 1 FROM claims WHERE sample = query.sample AND session != :session "
                f"AND until > :now) ORDER BY sample IS NOT :chosen, {put_off}, round, rank LIMIT :n",
                {"first": first_open, "session": session, "now": now, "n": n, "chosen": first},
            ).fetchall()
            found = [_query(row) for row in rows]
            if len(found) < n:
                found += self._second_opinions(write, session, annotator, now, n - len(found))
            write.execute("DELETE FROM claims WHERE session = ?", (session,))
            claims = [(query.sample, session, now + lease) for query in found]
            write.executemany("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", claims)
        return found

    def _second_opinions(
        self, connection: sqlite3.Connection, session: str, annotator: str, now: float, n: int
    ) -> list[Query]:
        share = self.double_share
        if not share:
            return []
        rows = connection.execute(
            f"SELECT sample FROM ({_DECISION} AND action = 'label' AND annotator != :annotator) AS first "
            "WHERE NOT EXISTS (SELECT 1 FROM counting WHERE sample = first.sample AND second = 1) "
            "AND EXISTS (SELECT 1 FROM queries WHERE sample = first.sample) "
            "AND NOT EXISTS (SELECT 1 FROM claims WHERE sample = first.sample AND session != :session "
            "AND until > :now) ORDER BY id",
            {"annotator": annotator, "session": session, "now": now},
        ).fetchall()
        chosen = [row[0] for row in rows if is_drawn(row[0], share)][:n]
        found = [self.query(sample) for sample in chosen]
        return [query for query in found if query is not None]

    def release(self, session: str) -> None:
        """Give back what a tab held."""
        with self.database.writing() as write:
            write.execute("DELETE FROM claims WHERE session = ?", (session,))

    # answers

    def record(self, answer: Answer, session: str | None = None, source: str = "page") -> int:
        """Keep an answer; it is on the disk when this returns.

        Where somebody else has decided about the sample meanwhile, the answer is kept as a second opinion; the same
        annotator changes the decision.

        Returns:
            Id of the event.

        Raises:
            AnnotationError: the sample was never asked, the label is no class, or there is no such action.
        """
        return self.record_all([answer], session, source)[0]

    def record_all(self, answers: Sequence[Answer], session: str | None = None, source: str = "page") -> list[int]:
        """Keep answers, all of them or, on an error, none; see `record`."""
        classes = self.classes
        with self.database.writing() as write:
            return [self._add(write, answer, classes, source) for answer in answers]

    def _add(self, write: sqlite3.Connection, answer: Answer, classes: list[str], source: str) -> int:
        if answer.action not in ACTIONS:
            raise AnnotationError(f"An action is one of {', '.join(ACTIONS)}, got {answer.action!r:.40}.")
        label = check_label(answer.label, classes) if answer.action == "label" else None
        if not isinstance(answer.annotator, str) or not answer.annotator.strip():
            raise AnnotationError(f"An answer needs the name of its annotator, got {answer.annotator!r:.40}.")
        query = write.execute("SELECT * FROM queries WHERE sample = ? ORDER BY id DESC", (answer.sample,)).fetchone()
        if query is None and source != "import":
            raise AnnotationError(f"The sample {answer.sample!r:.60} was never asked. Answer what the store asks.")
        second = query is not None and source != "import" and self._is_second(write, answer, query["seen"])
        asked = (-1, None, None) if query is None else (query["round"], query["guess"], query["score"])
        round, guess, score = asked
        cursor = write.execute(
            "INSERT INTO events (time, sample, action, label, annotator, round, seconds, guess, score, second, source) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (time.time(), answer.sample, answer.action, label, answer.annotator.strip(), round,
             known_seconds(answer.seconds), guess, score, int(second), source),
        )  # fmt: skip
        write.execute("DELETE FROM claims WHERE sample = ?", (answer.sample,))
        return int(cursor.lastrowid or 0)

    @staticmethod
    def _is_second(write: sqlite3.Connection, answer: Answer, seen: int) -> bool:
        """Whether another annotator has decided already, and not by a skip from before it was asked again."""
        found = write.execute(f"{_DECISION} AND sample = ?", (answer.sample,)).fetchone()
        if found is None or found["annotator"] == answer.annotator.strip() or found["source"] == "import":
            return False
        return bool(found["action"] != "skip" or found["id"] > seen)

    def undo(self, annotator: str) -> Event | None:
        """Take back the last thing that an annotator did and has not taken back; None: there is nothing."""
        with self.database.writing() as write:
            row = write.execute(
                "SELECT * FROM counting WHERE annotator = ? AND source != 'import' ORDER BY id DESC LIMIT 1",
                (annotator,),
            ).fetchone()
            if row is None:
                return None
            event = Event.of(row)
            write.execute(
                "INSERT INTO events (time, sample, action, annotator, round, second, undoes, source) "
                "VALUES (?, ?, 'undo', ?, ?, ?, ?, ?)",
                (time.time(), event.sample, annotator, event.round, event.second, event.id, event.source),
            )
        return event

    # what holds now

    def events(self) -> list[Event]:
        """All events, in order."""
        return [Event.of(row) for row in self._read("SELECT * FROM events ORDER BY id")]

    def decisions(self) -> dict[str, Event]:
        """The decision of each sample that has one, in the order in which they were made."""
        return {row["sample"]: Event.of(row) for row in self._read(f"{_DECISION} ORDER BY id")}

    def decision(self, sample: str) -> Event | None:
        """The decision about a sample; None: there is none."""
        found = self._read(f"{_DECISION} AND sample = ?", (sample,))
        return Event.of(found[0]) if found else None

    def labels(self) -> dict[str, str]:
        """Name of the class by sample, of those that are labelled."""
        return {name: str(event.label) for name, event in self.decisions().items() if event.action == "label"}

    def latest(self, annotator: str, n: int = 10) -> list[Event]:
        """The last decisions of an annotator that count, newest first."""
        rows = self._read(
            f"SELECT * FROM counting WHERE annotator = ? AND action IN {_DECIDED} AND source != 'import' "
            "ORDER BY id DESC LIMIT ?",
            (annotator, n),
        )
        return [Event.of(row) for row in rows]

    def answers(self, queries: Sequence[Query]) -> list[Answer]:
        """What is decided about these samples; "later" where nothing is yet."""
        is_open = {query.sample for query in self.open_queries()}
        known = self.decisions()
        return [
            Answer(query.sample, "later", annotator="")
            if query.sample in is_open or query.sample not in known
            else _answer(known[query.sample])
            for query in queries
        ]

    def progress(self) -> Progress:
        """How far the questions are that were asked last."""
        first = self._first_open(self.database.connection)
        asked = self._read("SELECT count(*), max(round) FROM queries WHERE id >= ?", (first,))[0]
        n_open = self._read(f"SELECT count(*) FROM ({_OPEN})", {"first": first})[0][0]
        n_labelled = self._read(f"SELECT count(*) FROM ({_DECISION} AND action = 'label')")[0][0]
        return Progress(asked[1], asked[0], asked[0] - n_open, n_labelled)

    def seconds_of_people(self) -> float:
        """Seconds that all answers took, also those that were undone: they were paid for."""
        return float(self._read("SELECT coalesce(sum(seconds), 0) FROM events")[0][0])

    # two opinions

    @property
    def double_share(self) -> float:
        """Share of the samples that a second annotator is asked for too."""
        return float(self.setting("double_share", 0.0))

    def set_double_share(self, share: float) -> None:
        """Have a share of the samples, chosen by their content, labelled by two people; 0 ends it.

        Raises:
            AnnotationError: the share is not from 0 to 1.
        """
        if not 0 <= share <= 1:
            raise AnnotationError(f"The share that is labelled twice is from 0 to 1, got {share}.")
        self.set_setting("double_share", share)

    def agreement(self) -> Agreement:
        """How far the second opinions agree with the first."""
        firsts = self.labels()
        rows = self._read("SELECT sample, label FROM counting WHERE second = 1 AND action = 'label' ORDER BY id")
        pairs = {row["sample"]: (firsts[row["sample"]], row["label"]) for row in rows if row["sample"] in firsts}
        return agreement_of(pairs)

    # what the run is doing

    def set_status(self, **values: Any) -> None:
        """Say what the run is doing, in the place of what was said before, for whoever shows it."""
        self.set_setting("status", {**values, "time": time.time()})

    def status(self) -> dict[str, Any]:
        """What `set_status` said last, with its ``time``; empty: nothing yet."""
        return dict(self.setting("status", {}))


def is_drawn(sample: str, share: float) -> bool:
    """Whether a sample is of the share that is labelled twice; its name, a hash of its content, decides."""
    return int(sample[:8] or "0", 16) / 0x1_0000_0000 < share if _is_hex(sample) else False


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdef" for character in text[:8])


def _query(row: sqlite3.Row) -> Query:
    path = None if row["path"] is None else Path(row["path"])
    return Query(row["sample"], path, row["round"], row["rank"], row["score"], row["guess"], row["purpose"])


def _answer(event: Event) -> Answer:
    action: Any = event.action
    return Answer(event.sample, action, event.label, event.annotator, event.seconds)
