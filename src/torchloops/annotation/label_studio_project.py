"""A project of Label Studio: what is asked of its server, and what its answers mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from json import dumps
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from torchloops.annotation.exchange.label_studio_json import SAMPLE_KEY
from torchloops.errors import AnnotationError

__all__ = ["Control", "LabelStudioProject", "Task", "Unreachable", "find_control"]

_PAGE = 200
_OVERLAP = timedelta(seconds=10)  # a change that was on its way to the database when we looked last
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"  # the only form that a filter of Label Studio takes


class Unreachable(Exception):
    """Label Studio does not answer now, and may later."""


@dataclass(frozen=True, slots=True)
class Control:
    """The part of a labelling configuration in which people choose a class.

    Args:
        name: of the choices.
        image: name of the picture that they are about.
        key: of a task's data that holds the address of the picture.
    """

    name: str
    image: str
    key: str


@dataclass(frozen=True, slots=True)
class Task:
    """A task that torchloops has pushed.

    Args:
        id: in Label Studio.
        sample: name of the sample.
        annotations: as Label Studio gives them.
    """

    id: int
    sample: str
    annotations: tuple[dict[str, Any], ...]


class LabelStudioProject:
    """The project, through a client of Label Studio's SDK.

    Args:
        client: ``label_studio_sdk.LabelStudio``.
        url: of the server, for messages.
        project: number of the project.

    Every method raises `Unreachable` where the server is down or busy, and AnnotationError where it refuses.
    """

    def __init__(self, client: Any, url: str, project: int) -> None:
        self.client = client
        self.url = url
        self.project = project
        self._last_change = ""

    def control(self, classes: Sequence[str]) -> Control:
        """Where people choose among the classes.

        Raises:
            AnnotationError: the labelling configuration has no such choices.
        """
        with self._talking():
            config = self.client.projects.get(id=self.project).label_config
        return find_control(str(config or ""), classes, f"Project {self.project} of {self.url}")

    def tasks(self, *, only_changed: bool = False) -> list[Task]:
        """The tasks that torchloops has pushed; or those of them that changed since they were looked at last."""
        query = _changed_since(self._last_change) if only_changed and self._last_change else None
        with self._talking():
            pages = self.client.tasks.list(
                project=self.project, fields="all", page_size=_PAGE, **({"query": query} if query else {})
            )
            found = pages.items if len(pages.items) < _PAGE else list(pages)  # the SDK asks for one page too many
        self._last_change = max([self._last_change, *(_text_of_time(task.updated_at) for task in found)])
        return [
            Task(task.id, name, tuple(_plain(entry) for entry in task.annotations or ()))
            for task in found
            if isinstance(name := (task.data or {}).get(SAMPLE_KEY), str)
        ]

    def upload(self, name: str, content: bytes, media_type: str) -> str:
        """Give Label Studio a picture, without a task of it yet; return the address that a task has to name."""
        with self._talking():
            # The SDK has no method that sends a file. Its own client knows the token, and renews it.
            response = self.client._client_wrapper.httpx_client.request(
                f"api/projects/{self.project}/import", method="POST", params={"commit_to_project": "false"},
                files={"file": (name, content, media_type)},
            )  # fmt: skip
            if response.status_code >= 400:
                raise self._refusal(response.status_code, response.text)
            upload = self.client.files.get(id=response.json()["file_upload_ids"][0])
        return f"/data/{upload.file}"

    def push(self, tasks: Sequence[dict[str, Any]]) -> None:
        """Add tasks, in this order."""
        with self._talking():
            self.client.projects.import_tasks(id=self.project, request=list(tasks))

    @contextmanager
    def _talking(self) -> Iterator[None]:
        import httpx  # the SDK needs it

        try:
            yield
        except (httpx.TransportError, OSError) as error:
            raise Unreachable(str(error) or type(error).__name__) from error
        except Exception as error:
            status = getattr(error, "status_code", None)
            if not isinstance(status, int):
                raise
            raise self._refusal(status, str(getattr(error, "body", error))) from error

    def _refusal(self, status: int, said: str) -> Exception:
        if status >= 500 or status in (408, 429):
            return Unreachable(f"it says {status}: {said:.200}")
        if status in (401, 403):
            return AnnotationError(
                f"Label Studio at {self.url} does not take the token (it says {status}). Copy an access token from "
                "Account & Settings there, of somebody who may work in the project."
            )
        if status == 404:
            return AnnotationError(
                f"Label Studio at {self.url} has no project {self.project}. Its number is in the address of the "
                "project's page: /projects/<number>."
            )
        return AnnotationError(f"Label Studio at {self.url} refuses (it says {status}): {said:.500}")


def _changed_since(time: str) -> str:
    since = datetime.fromisoformat(time).astimezone(UTC) - _OVERLAP
    item = {
        "filter": "filter:tasks:updated_at",
        "operator": "greater",
        "type": "Datetime",
        "value": since.strftime(_TIME),
    }
    return dumps({"filters": {"conjunction": "and", "items": [item]}})


def _text_of_time(time: Any) -> str:
    """A time of Label Studio, a text or not by the version of its SDK, so that texts sort as times do."""
    moment = time if isinstance(time, datetime) else datetime.fromisoformat(str(time))
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _plain(entry: Any) -> dict[str, Any]:
    """An annotation as it is in JSON: the SDK wraps some in classes of its own."""
    return entry if isinstance(entry, dict) else dict(entry.dict())


def find_control(config: str, classes: Sequence[str], whose: str) -> Control:
    """The choices of a labelling configuration that are the classes.

    Raises:
        AnnotationError: there are none; the message says what to paste.
    """
    try:
        root = ElementTree.fromstring(config)
    except ElementTree.ParseError:
        root = ElementTree.Element("View")
    images = {tag.get("name"): tag.get("value", "").removeprefix("$") for tag in root.iter("Image")}
    found = "It has no <Choices> that belong to an <Image>."
    for tag in root.iter("Choices"):
        name, image = tag.get("name", ""), tag.get("toName", "")
        choices = {(choice.get("alias") or choice.get("value") or "").strip() for choice in tag.iter("Choice")}
        if images.get(image) and choices == set(classes):
            return Control(name, image, images[image])
        if images.get(image):
            lacking, others = sorted(set(classes) - choices), sorted(choices - set(classes))
            found = f"Its choices {name!r} lack {lacking} and have {others} besides."
    raise AnnotationError(
        f"{whose} does not let people choose among the classes of the study. {found} Paste this at Settings, Labeling "
        f"Interface, Code:\n{_config(classes)}"
    )


def _config(classes: Sequence[str]) -> str:
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in classes)
    return (
        '<View>\n  <Image name="image" value="$image"/>\n  <Choices name="choice" toName="image" choice="single" '
        f'required="true">\n{choices}\n  </Choices>\n</View>'
    )
