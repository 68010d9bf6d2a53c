"""The file of a label store: its tables, and a connection for each thread."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torchloops.errors import AnnotationError

__all__ = ["Database"]

_APPLICATION = 0x746C6C73  # "tlls": marks the file as a label store
_VERSION = 1
_PATIENCE = 30.0  # seconds that a write waits for another process

_TABLES = """
CREATE TABLE classes (position INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE samples (number INTEGER PRIMARY KEY, hash TEXT NOT NULL UNIQUE);
CREATE TABLE files (path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, hash TEXT NOT NULL);
CREATE TABLE queries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, round INTEGER NOT NULL, rank INTEGER NOT NULL,
    sample TEXT NOT NULL, path TEXT, score REAL, guess TEXT, purpose TEXT NOT NULL, seen INTEGER NOT NULL);
CREATE INDEX queries_by_sample ON queries (sample);
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, sample TEXT NOT NULL, action TEXT NOT NULL, label TEXT,
    annotator TEXT NOT NULL, round INTEGER NOT NULL, seconds REAL, guess TEXT, score REAL, second INTEGER NOT NULL,
    undoes INTEGER UNIQUE, source TEXT NOT NULL);
CREATE INDEX events_by_sample ON events (sample);
CREATE INDEX events_by_annotator ON events (annotator);
CREATE TABLE claims (sample TEXT PRIMARY KEY, session TEXT NOT NULL, until REAL NOT NULL);
CREATE INDEX claims_by_session ON claims (session);
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE VIEW counting AS
    SELECT * FROM events WHERE action != 'undo' AND id NOT IN (SELECT undoes FROM events WHERE undoes IS NOT NULL);
"""
_APPEND_ONLY = ("events", "queries", "samples", "classes")


class Database:
    """A SQLite file in WAL mode whose every commit is on the disk when it returns; a connection a thread.

    Args:
        path: of the file, made if missing.

    Raises:
        AnnotationError: the file is no label store, is damaged or of a newer version, or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._owner = os.getpid()
        try:
            self._prepare()
        except sqlite3.Error as error:
            self.close()
            raise AnnotationError(
                f"{path} cannot be used as a label store: {error}. Check that the folder exists and can be written to, "
                "and that the file is one that torchloops made; or name another file."
            ) from error

    def _prepare(self) -> None:
        self._check(self.connection)
        self.connection.execute("PRAGMA journal_mode=WAL")
        with self.writing() as write:
            if self._check(write):
                self._make_tables(write)

    @staticmethod
    def _check(connection: sqlite3.Connection) -> bool:
        """Whether the file is new; one that is no label store is refused before anything is written."""
        mark, version, has_tables = (
            connection.execute(statement).fetchone()[0]
            for statement in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
        )
        if not mark and not version and not has_tables:
            return True
        if mark != _APPLICATION:
            raise sqlite3.DatabaseError("it is another program's database")
        if version > _VERSION:
            raise sqlite3.DatabaseError(f"it is of format {version}, newer than {_VERSION}: update torchloops")
        return False

    @staticmethod
    def _make_tables(write: sqlite3.Connection) -> None:
        for statement in _TABLES.split(";"):
            write.execute(statement)
        for table in _APPEND_ONLY:
            for verb in ("UPDATE", "DELETE"):
                write.execute(
                    f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, 'rows of {table} are only added'); END"
                )
        write.execute(f"PRAGMA application_id = {_APPLICATION}")
        write.execute(f"PRAGMA user_version = {_VERSION}")

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection, to read with."""
        if self._owner != os.getpid():
            raise AnnotationError("A label store cannot be used in a forked process. Open it there anew.")
        found = getattr(self._local, "connection", None)
        if found is None:
            found = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
            found.execute("PRAGMA synchronous=FULL")
            found.row_factory = sqlite3.Row
            self._local.connection = found
            with self._lock:
                self._opened.append(found)
        return found

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A context that writes all or nothing; what it wrote is on the disk when it ends.

        Raises:
            AnnotationError: the disk is full, or another process writes for too long.
        """
        connection = self.connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
        except (sqlite3.OperationalError, sqlite3.IntegrityError) as error:
            raise AnnotationError(
                f"{self.path} could not be written to: {error}. Nothing of this was saved, and all that was saved "
                "before is there. Free disk space or end the other program, and do it again."
            ) from error

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            for connection in self._opened if self._owner == os.getpid() else ():
                with suppress(sqlite3.Error):
                    connection.close()
            self._opened.clear()
        self._local = threading.local()
