"""LabelStudioAnnotator: people who label in a project of Label Studio."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from torchloops.annotation.events import Event, check_label
from torchloops.annotation.exchange.label_studio_json import (
    SAMPLE_KEY,
    address_of,
    changed_at,
    choice_of,
    prediction,
)
from torchloops.annotation.label_studio_project import Control, LabelStudioProject, Task, Unreachable
from torchloops.annotation.pictures import as_shown
from torchloops.annotation.queries import Answer, Query
from torchloops.annotation.store import LabelStore
from torchloops.errors import AnnotationError, require

__all__ = ["LabelStudioAnnotator"]

_SOURCE = "label_studio"
_AT_ONCE = 20  # tasks a push, so that people can begin while the rest is on its way
_LOOK_THROUGH = 300.0  # seconds after which all tasks are looked at again: somebody may have deleted some


class LabelStudioAnnotator:
    """People who label in a project of Label Studio, which may run for years and restart at any time.

    Each question becomes a task, best first, with what the model says as its prediction; Label Studio's "sequential
    sampling" keeps the order. Answers are fetched until the round is complete. A task is known by the name of its
    sample in its data, so that nothing is asked twice and no annotation is lost, whichever side restarts; while Label
    Studio is down the run waits. An annotation that somebody changes later is taken over with the next answers. A task
    that is skipped there is "skip", and stays so until somebody annotates it: Label Studio does not show it again.

    Args:
        url: of Label Studio, such as ``"http://localhost:8080"``.
        token: an access token, from Account & Settings there.
        project: number of the project; its labelling configuration has choices that are the classes.
        poll: seconds between looks at what people have answered.
        image_url: where Label Studio finds a picture: a function of its path, or a text with ``{path}`` or ``{name}``
            in it, such as ``"/data/local-files/?d=photos/{name}"`` where Label Studio serves that folder itself.
            Default: the pictures are uploaded to it.
        say: prints a line.
        client: a client of Label Studio's SDK that is set up in another way than by url and token.

    Raises:
        MissingDependencyError: Label Studio's SDK is not installed, at the first question.
    """

    def __init__(
        self,
        url: str,
        token: str,
        project: int,
        *,
        poll: float = 2.0,
        image_url: str | Callable[[Path], str] | None = None,
        say: Callable[[str], Any] = print,
        client: Any = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.token = token
        self.project = project
        self.poll = poll
        self.image_url = image_url
        self.say = say
        self.client = client
        self._store: LabelStore | None = None
        self._server: LabelStudioProject | None = None
        self._control: Control | None = None
        self._looked_through: float | None = None
        self._is_down = False
        self._complained: set[str] = set()

    def attach(self, store: LabelStore) -> None:
        """Take questions from this store, and put answers into it."""
        self._store = store

    def annotate(self, queries: Sequence[Query]) -> list[Answer]:
        """Push what is not there yet, and wait until people have answered.

        Raises:
            AnnotationError: it is attached to no store; Label Studio refuses the token or the project; or its choices
                are not the classes.
        """
        store = self._store
        if store is None:
            raise AnnotationError("LabelStudioAnnotator is attached to no label store. Call attach(store) first.")
        server = self._connect()
        self._control = self._looked_through = None
        while True:
            try:
                self._exchange(store, server)
                self._note_up()
            except Unreachable as error:
                self._note_down(error)
            answers = store.answers(queries)
            if all(answer.action != "later" for answer in answers):
                return answers
            sleep(self.poll)

    def _connect(self) -> LabelStudioProject:
        if self._server is None:
            if not self.url.startswith(("http://", "https://")):
                raise AnnotationError(
                    f"The address of Label Studio begins with http:// or https://, got {self.url!r}. Copy it from the "
                    "browser, up to the port."
                )
            if self.client is None:
                sdk = require("label_studio_sdk", extra="label-studio", needed_by="LabelStudioAnnotator")
                self.client = sdk.LabelStudio(base_url=self.url, api_key=self.token)
            self._server = LabelStudioProject(self.client, self.url, self.project)
            self.say(f"label  {self.url}/projects/{self.project}")
        return self._server

    def _note_up(self) -> None:
        if self._is_down:
            self.say("Label Studio answers again.")
        self._is_down = False

    def _note_down(self, error: Unreachable) -> None:
        if not self._is_down:
            self.say(f"Label Studio at {self.url} does not answer: {error}. Waiting for it; Ctrl-C ends the run.")
        self._is_down, self._looked_through = True, None

    def _exchange(self, store: LabelStore, server: LabelStudioProject) -> None:
        """Fetch what changed; and now and then look at all, and push what is missing."""
        if self._control is None:
            self._control = server.control(store.classes)
        start = monotonic()
        if self._looked_through is not None and start - self._looked_through < _LOOK_THROUGH:
            self._take_over(store, self._control, server.tasks(only_changed=True))
            return
        tasks = server.tasks()
        self._take_over(store, self._control, tasks)
        there = {task.sample for task in tasks}
        missing = [query for query in store.open_queries() if query.sample not in there]
        for first in range(0, len(missing), _AT_ONCE):
            queries = missing[first : first + _AT_ONCE]
            server.push([task for query in queries for task in self._task(store, server, query, self._control)])
        self._looked_through = start

    # questions

    def _task(
        self, store: LabelStore, server: LabelStudioProject, query: Query, control: Control
    ) -> Iterator[dict[str, Any]]:
        """The task of a question; none where its picture cannot be read, which is flagged."""
        if query.path is None or not query.path.is_file():
            raise AnnotationError(f"The picture {query.path or query.sample} is gone. Put it back, and resume the run.")
        try:
            address = self._address(server, query.sample, query.path)
        except AnnotationError as error:
            self.say(f"{query.path}: {error} It was flagged.")
            store.record(Answer(query.sample, "flag", annotator="torchloops"), source=_SOURCE)
            return
        data = {
            control.key: address,
            SAMPLE_KEY: query.sample,
            "torchloops_file": query.path.name,
            "torchloops_round": query.round,
            "torchloops_rank": query.rank,
            "torchloops_score": query.score,
        }
        version = f"torchloops round {query.round}"
        guess = [] if query.guess is None else [
            prediction(query.guess, query.score, version, control=control.name, image=control.image)
        ]  # fmt: skip
        yield {"data": data, "predictions": guess}

    def _address(self, server: LabelStudioProject, sample: str, path: Path) -> str:
        if self.image_url is not None:
            return address_of(path, self.image_url)
        content, media_type = as_shown(path)
        return server.upload(f"{sample}.{media_type.partition('/')[2]}", content, media_type)

    # answers

    def _take_over(self, store: LabelStore, control: Control, tasks: Sequence[Task]) -> None:
        """Record what people say there and the store does not know."""
        annotated = [task for task in tasks if task.annotations and store.query(task.sample) is not None]
        if not annotated:
            return
        before: dict[tuple[str, str], list[Event]] = {}
        for event in store.events():
            if event.source == _SOURCE:
                before.setdefault((event.sample, event.annotator), []).append(event)
        is_open = {query.sample for query in store.open_queries()}
        pairs = [(entry, task) for task in annotated for entry in task.annotations]
        new = []
        for entry, task in sorted(pairs, key=lambda pair: changed_at(pair[0])):
            known = before.get((task.sample, _annotator(entry)), [])
            answer = self._answer(entry, task, control, store.classes, known)
            is_known = answer is not None and known and _says(known[-1]) == _says(answer)
            if answer is not None and (not is_known or task.sample in is_open):
                new.append(answer)
        store.record_all(new, source=_SOURCE)

    def _answer(
        self, entry: dict[str, Any], task: Task, control: Control, classes: Sequence[str], known: Sequence[Event]
    ) -> Answer | None:
        """What an annotation says; None, and a line that tells why, where it answers nothing."""
        place = f"Task {task.id} of project {self.project}"
        try:
            action, label = choice_of(entry, control.name)
            if action == "label":
                check_label(label, classes)
        except AnnotationError as error:
            self._complain(f"{place}: {error} Change the annotation there; the question stays open.")
            return None
        if action == "later":
            self._complain(f"{place}: it was submitted without a class. Choose one there; the question stays open.")
            return None
        seconds = entry.get("lead_time")
        if isinstance(seconds, int | float):  # it grows with each change
            seconds = max(seconds - sum(event.seconds or 0.0 for event in known), 0.0)
        return Answer(task.sample, action, label, _annotator(entry), seconds)  # type: ignore[arg-type]

    def _complain(self, message: str) -> None:
        if message not in self._complained:
            self.say(message)
        self._complained.add(message)


def _annotator(entry: dict[str, Any]) -> str:
    """Who made an annotation, by number: names and addresses may change."""
    by = entry.get("completed_by")
    return f"Label Studio user {by.get('id') if isinstance(by, dict) else by}"


def _says(what: Event | Answer) -> tuple[str, str | None]:
    return what.action, what.label
