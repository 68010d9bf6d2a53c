"""Label Studio as far as torchloops talks to it, for tests: a server with a memory, and clients like its SDK's."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import httpx

CONFIG = """<View>
  <Header value="Which is it?"/>
  <Image name="img" value="$picture"/>
  <Choices name="kind" toName="img"><Choice value="bright"/><Choice value="night" alias="dark"/></Choices>
</View>"""


class Refused(Exception):
    def __init__(self, status_code, body):
        super().__init__(body)
        self.status_code = status_code
        self.body = body


class Pages:
    """A listing: its first page is there, and going through it asks for the others."""

    def __init__(self, found, size):
        self.items = found[:size]
        self.found = found

    def __iter__(self):
        return iter(self.found)


class FakeLabelStudio:
    """A server. Tasks are JSON as Label Studio 1.23 gives it; its clock goes on by a second with each change."""

    def __init__(self, config=CONFIG):
        self.config = config
        self.tasks = []
        self.uploads = []
        self.requests = []
        self.now = datetime(2026, 11, 27, tzinfo=UTC)
        self.failures = []  # of the next requests: "down", a status, "answer lost", or None for one that goes well

    def client(self):
        """A client that is set up anew, as a run that was resumed has it."""
        return SimpleNamespace(
            projects=SimpleNamespace(get=self._get, import_tasks=self._import),
            tasks=SimpleNamespace(list=self._list),
            files=SimpleNamespace(get=self._file),
            _client_wrapper=SimpleNamespace(httpx_client=SimpleNamespace(request=self._upload)),
        )

    def _serve(self, name, answer):
        self.requests.append(name)
        failure = self.failures.pop(0) if self.failures else None
        if failure == "down":
            raise httpx.ConnectError("[Errno 111] Connection refused")
        if isinstance(failure, int):
            raise Refused(failure, {"detail": "so it is"})
        result = answer()
        if failure == "answer lost":
            raise httpx.ReadTimeout("timed out")
        return result

    def _time(self):
        self.now += timedelta(seconds=1)
        return self.now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def _get(self, id):
        return self._serve("project", lambda: SimpleNamespace(id=id, label_config=self.config))

    def _import(self, id, request):
        def add():
            for task in json.loads(json.dumps(request)):
                number = len(self.tasks) + 1
                self.tasks.append({"id": number, "annotations": [], "updated_at": self._time(), "project": id, **task})

        return self._serve("import", add)

    def _list(self, project, fields, page_size, query=None):
        def find():
            found = self.tasks
            if query is not None:
                (item,) = json.loads(query)["filters"]["items"]
                assert (item["filter"], item["operator"]) == ("filter:tasks:updated_at", "greater")
                datetime.strptime(item["value"], "%Y-%m-%dT%H:%M:%S.%fZ")
                found = [task for task in found if task["updated_at"] > item["value"]]
            return Pages([SimpleNamespace(**json.loads(json.dumps(task))) for task in found], page_size)

        return self._serve("changed" if query else "list", find)

    def _upload(self, path, method, params, files):
        def keep():
            assert (path, method, params) == ("api/projects/3/import", "POST", {"commit_to_project": "false"})
            self.uploads.append(files["file"])
            return SimpleNamespace(
                status_code=201, text="", json=lambda: {"task_count": 1, "file_upload_ids": [len(self.uploads)]}
            )

        return self._serve("upload", keep)

    def _file(self, id):
        return self._serve("file", lambda: SimpleNamespace(id=id, file=f"upload/3/0a1b2c3d-{self.uploads[id - 1][0]}"))

    # what people do

    def annotate(self, task, *choices, user=1, cancelled=False, seconds=2.5, control="kind"):
        """Somebody annotates a task, or changes what they said of it."""
        value = {"choices": list(choices)}
        entry = {
            "id": task["id"] * 100 + user,
            "completed_by": user,
            "created_username": " ada@example.org, 1",
            "was_cancelled": cancelled,
            "result": [{"from_name": control, "to_name": "img", "type": "choices", "value": value}] if choices else [],
            "lead_time": seconds,
            "updated_at": self._time(),
        }
        task["annotations"] = [old for old in task["annotations"] if old["completed_by"] != user] + [entry]
        task["updated_at"] = self._time()

    def task_of(self, sample):
        (found,) = [task for task in self.tasks if task["data"].get("torchloops_sample") == sample]
        return found
