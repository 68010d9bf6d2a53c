"""Annotators that need no server: hidden labels for simulations, and a person at the terminal."""

from __future__ import annotations

import os
import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import unquote

from torchloops.annotation.events import check_label
from torchloops.annotation.exchange.class_folders import files_by_class
from torchloops.annotation.pool import content_hash
from torchloops.annotation.queries import Answer, Query
from torchloops.annotation.store import LabelStore
from torchloops.errors import AnnotationError

__all__ = ["MaskedLabels", "TerminalAnnotator", "class_keys"]

_POLL = 0.2  # seconds between looks at what others have answered
_ACTION_KEYS = {"s": "skip", "f": "flag", "l": "later"}
COMMAND_KEYS = "sfulgh"
"""Letters that stand for skip, flag, undo, later, guess and help: no class has them."""


def class_keys(classes: Sequence[str]) -> dict[str, str]:
    """From keys to classes: a class that is named as a key has it, the others get those left in their order.

    Keys are 1 to 9, 0 and the letters that are no command; classes beyond them have none.
    """
    free = [*"1234567890", *(letter for letter in string.ascii_lowercase if letter not in COMMAND_KEYS)]
    own = {name.lower(): name for name in classes if name.lower() in free}
    left = [key for key in free if key not in own]
    others = [name for name in classes if name not in own.values()]
    found = {**own, **dict(zip(left, others, strict=False))}
    place = {name: index for index, name in enumerate(classes)}
    return dict(sorted(found.items(), key=lambda pair: place[pair[1]]))


class MaskedLabels:
    """Answers at once from labels that are hidden from the model: a simulation of people.

    Args:
        labels: name of the class by sample, or a folder of class folders that holds the same pictures.

    Raises:
        AnnotationError: the folder has no pictures in class folders, or holds one picture in two of them.

    Example:
        >>> MaskedLabels({"5f": "bee"}).annotate([Query("5f")])[0].label
        'bee'
    """

    def __init__(self, labels: Mapping[str, str] | str | os.PathLike[str]) -> None:
        self.labels = dict(labels) if isinstance(labels, Mapping) else labels_of_folders(Path(labels))

    def annotate(self, queries: Sequence[Query]) -> list[Answer]:
        """The hidden label of each sample.

        Raises:
            AnnotationError: a sample has none.
        """
        unknown = [query for query in queries if query.sample not in self.labels]
        if unknown:
            raise AnnotationError(
                f"There is no hidden label of {unknown[0].path or unknown[0].sample}. Give labels of all samples of "
                "the pool."
            )
        return [Answer(query.sample, "label", self.labels[query.sample], "truth", 0.0) for query in queries]


def labels_of_folders(folder: Path) -> dict[str, str]:
    """The label of each picture in a folder of class folders, by the name that its content gives it.

    Raises:
        AnnotationError: there are none, or one picture is in two classes.
    """
    found: dict[str, str] = {}
    places: dict[str, Path] = {}
    for path, place in files_by_class(folder):
        name, label = content_hash(path), unquote(place)
        if found.setdefault(name, label) != label:
            raise AnnotationError(
                f"{places[name]} and {path} are the same picture in two classes. Remove it from one of them."
            )
        places[name] = path
    return found


class TerminalAnnotator:
    """A person who types keys at the terminal; each answer is kept before the next question is put.

    Keys are those of the labelling page: 1 to 9, 0 and letters for the classes (their names do too), s skips, f
    flags, l puts off, u takes the last answer back, g shows the model's guess, h the keys. The end of the input
    (Ctrl-D) puts off all that is left.

    Args:
        show: called with the path of each picture, for a viewer of your choice. Default: the path is printed.
        ask: reads a line.
        say: prints a line.
        name: of the annotator.
    """

    def __init__(
        self,
        show: Callable[[Path], object] | None = None,
        ask: Callable[[str], str] = input,
        say: Callable[[str], object] = print,
        name: str = "terminal",
    ) -> None:
        self.show = show
        self.ask = ask
        self.say = say
        self.name = name
        self.store: LabelStore | None = None

    def attach(self, store: LabelStore) -> None:
        """Keep answers in this store."""
        self.store = store

    def annotate(self, queries: Sequence[Query]) -> list[Answer]:
        """Ask for one picture after the other.

        Raises:
            AnnotationError: it is attached to no store, so that nobody knows the classes.
        """
        if self.store is None:
            raise AnnotationError("TerminalAnnotator knows no classes yet. Call attach(store) first.")
        session = f"terminal {secrets.token_hex(8)}"
        try:
            with suppress(EOFError):  # the end of the input
                self._ask_all(self.store, session, queries)
        finally:
            self.store.release(session)
        return self.store.answers(queries)

    def _ask_all(self, store: LabelStore, session: str, queries: Sequence[Query]) -> None:
        keys, is_waiting = class_keys(store.classes), False
        wanted = {query.sample for query in queries}
        self.say(self._keys(keys))
        while n_left := sum(query.sample in wanted for query in store.open_queries()):
            taken = store.take(session, self.name, 1)
            if not taken:
                if not is_waiting:
                    self.say("others have the rest on their screens: waiting for them, Ctrl-C ends it")
                is_waiting = True
                sleep(_POLL)
                continue
            query, is_waiting = taken[0], False
            place = f"round {query.round} - {len(queries) - n_left + 1} of {len(queries)}"
            self.say(f"{place} - {query.path or query.sample}")
            if self.show is not None and query.path is not None:
                self.show(query.path)
            self._answer(store, query, keys)

    def _answer(self, store: LabelStore, query: Query, keys: dict[str, str]) -> None:
        """Take keys until one is an answer, or takes one back."""
        start = monotonic()
        while True:
            typed = self.ask("> ").strip()
            key = typed.lower()
            if key == "h":
                self.say(self._keys(keys))
            elif key == "g":
                self.say(f"the model says {query.guess}" if query.guess else "the model says nothing yet")
            elif key == "u":
                event = store.undo(self.name)
                self.say(
                    "there is nothing to take back" if event is None else f"taken back: {event.label or event.action}"
                )
                return None
            elif key in _ACTION_KEYS:
                return self._record(store, query, _ACTION_KEYS[key], None, monotonic() - start)
            else:
                label = keys.get(key, typed)
                try:
                    check_label(label, store.classes)
                except AnnotationError as error:
                    self.say(f"{error} h shows the keys.")
                    continue
                return self._record(store, query, "label", label, monotonic() - start)

    def _record(self, store: LabelStore, query: Query, action: str, label: str | None, seconds: float) -> None:
        store.record(Answer(query.sample, action, label, self.name, seconds), source="terminal")  # type: ignore[arg-type]

    @staticmethod
    def _keys(keys: dict[str, str]) -> str:
        named = "   ".join(f"{key} {name}" for key, name in keys.items())
        return f"{named}\ns skip   f flag   u undo   l later   g guess   h keys   Ctrl-D stop"
