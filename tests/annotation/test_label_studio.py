"""LabelStudioAnnotator: against Label Studio's answers, with both sides restarting, and against the real one."""

import io
import os
import re
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress

import httpx
import pytest
from label_studio_server import CONFIG, FakeLabelStudio
from PIL import Image

from torchloops.annotation import Answer, LabelStore, LabelStudioAnnotator, Query, import_labels, index_pool
from torchloops.annotation.label_studio_project import _plain
from torchloops.errors import AnnotationError, MissingDependencyError


@pytest.fixture
def server():
    return FakeLabelStudio()


@pytest.fixture
def people(monkeypatch):
    """``people(*steps)``: each is done while the annotator sleeps, one a look."""
    pending = []

    def sleep(seconds):
        assert pending, "the annotator waits and nobody does anything"
        pending.pop(0)()

    monkeypatch.setattr("torchloops.annotation.label_studio.sleep", sleep)
    return lambda *steps: pending.extend(steps)


@pytest.fixture
def queries(samples):
    return [Query(s.hash, s.paths[0], 4, rank, 0.9 - rank / 10, "dark") for rank, s in enumerate(samples[:4])]


@pytest.fixture
def make(server, store):
    """An annotator that has just been set up, as after a restart of the run."""

    def make(**options):
        lines = []
        annotator = LabelStudioAnnotator(
            "http://studio/", "token", 3, say=lines.append, **{"client": server.client(), **options}
        )
        annotator.attach(store)
        annotator.lines = lines
        return annotator

    return make


def answer_all(server, queries, label="bright"):
    return [lambda q=q: server.annotate(server.task_of(q.sample), label) for q in queries]


def said(answers):
    return [(answer.action, answer.label) for answer in answers]


def test_questions_become_tasks_in_their_order_with_what_the_model_says(server, make, store, queries, people):
    store.ask(queries)
    people(*answer_all(server, queries))
    answers = make().annotate(queries)
    assert said(answers) == [("label", "bright")] * 4
    assert [task["data"]["torchloops_sample"] for task in server.tasks] == [query.sample for query in queries]
    assert server.tasks[1]["data"] == {
        "picture": f"/data/upload/3/0a1b2c3d-{queries[1].sample}.png",
        "torchloops_sample": queries[1].sample,
        "torchloops_file": queries[1].path.name,
        "torchloops_round": 4,
        "torchloops_rank": 1,
        "torchloops_score": 0.8,
    }
    result = {"from_name": "kind", "to_name": "img", "type": "choices", "value": {"choices": ["dark"]}}
    assert server.tasks[1]["predictions"] == [{"model_version": "torchloops round 4", "score": 0.8, "result": [result]}]
    assert server.uploads[0][1] == queries[0].path.read_bytes()


def test_answers_are_kept_as_they_come(server, make, store, queries, people):
    store.ask(queries)
    seen = []
    steps = [
        lambda: server.annotate(server.task_of(queries[2].sample), "dark", user=7, seconds=4.0),
        lambda: seen.append(store.decision(queries[2].sample)),
        lambda: server.annotate(server.task_of(queries[0].sample), cancelled=True),
        *answer_all(server, [queries[1], queries[3]]),
    ]
    people(*steps)
    answers = make().annotate(queries)
    assert said(answers) == [("skip", None), ("label", "bright"), ("label", "dark"), ("label", "bright")]
    (event,) = seen
    assert (event.annotator, event.seconds, event.round, event.guess) == ("Label Studio user 7", 4.0, 4, "dark")
    assert event.source == "label_studio"
    assert [name for name in server.requests if name in ("list", "changed")] == ["list"] * 2 + ["changed"] * 4


def test_a_run_that_restarts_pushes_nothing_twice_and_loses_nothing(server, make, store, queries, people):
    store.ask(queries)

    def kill():
        raise KeyboardInterrupt

    people(*answer_all(server, queries[:1]), kill)
    with pytest.raises(KeyboardInterrupt):
        make().annotate(queries)
    answer_all(server, queries[1:2], "dark")[0]()  # while no run is there
    people(*answer_all(server, queries[2:]))
    answers = make().annotate(queries)
    assert [label for _, label in said(answers)] == ["bright", "dark", "bright", "bright"]
    assert len(server.tasks) == 4
    assert len(store.events()) == 4


def test_a_store_that_was_lost_is_filled_again(server, make, store, queries, people, tmp_path):
    store.ask(queries)
    people(*answer_all(server, queries))
    make().annotate(queries)
    with LabelStore(tmp_path / "fresh.sqlite") as fresh:
        fresh.set_classes(store.classes)
        fresh.ask(queries)
        annotator = make()
        annotator.attach(fresh)
        assert said(annotator.annotate(queries)) == [("label", "bright")] * 4
        assert len(server.tasks) == 4


@pytest.mark.parametrize("failure", ["down", 500, 502, 503, 429])
@pytest.mark.parametrize("at", range(12))
def test_the_run_waits_while_label_studio_is_down(server, make, store, queries, people, failure, at):
    store.ask(queries)
    server.failures = [None] * at + [failure] * 3
    nothing = [lambda: None] * 3
    later = [lambda q=q: server.annotate(server.task_of(q.sample), "dark") for q in queries]
    people(*nothing, *later)
    annotator = make()
    assert said(annotator.annotate(queries)) == [("label", "dark")] * 4
    assert len(server.tasks) == 4
    assert [task["data"]["torchloops_rank"] for task in server.tasks] == [0, 1, 2, 3]
    assert annotator.lines[0] == "label  http://studio/projects/3"
    assert [line.partition(":")[0] for line in annotator.lines[1:]] == [
        "Label Studio at http",
        "Label Studio answers again.",
    ]


@pytest.mark.parametrize("at", range(12))
def test_an_answer_that_gets_lost_doubles_no_task(server, make, store, queries, people, at):
    store.ask(queries)
    server.failures = [None] * at + ["answer lost"]
    people(lambda: None, *answer_all(server, queries))
    assert said(make().annotate(queries)) == [("label", "bright")] * 4
    assert len(server.tasks) == 4


def test_complete_answers_do_not_wait_for_label_studio(server, make, store, queries, people):
    store.ask(queries)
    people(*answer_all(server, queries))
    make().annotate(queries)
    server.failures = ["down"]
    annotator = make()
    assert said(annotator.annotate(queries)) == [("label", "bright")] * 4
    assert "does not answer" in annotator.lines[-1]


def test_tasks_that_somebody_deleted_are_pushed_again(server, make, store, queries, people, monkeypatch):
    clock = iter(range(0, 10_000, 200))
    monkeypatch.setattr("torchloops.annotation.label_studio.monotonic", lambda: next(clock))
    store.ask(queries)
    people(lambda: server.tasks.clear(), lambda: None, *answer_all(server, queries))
    make().annotate(queries)
    assert len(server.tasks) == 4


def test_what_people_change_later_is_taken_over(server, make, store, queries, people):
    store.ask(queries[:2])
    people(*answer_all(server, queries[:2]))
    annotator = make()
    annotator.annotate(queries[:2])
    server.annotate(server.task_of(queries[0].sample), "dark", seconds=6.0)
    store.ask(queries[2:])
    people(*answer_all(server, queries[2:]))
    annotator.annotate(queries[2:])
    assert store.labels()[queries[0].sample] == "dark"
    assert [event.seconds for event in store.events() if event.sample == queries[0].sample] == [2.5, 3.5]


def test_another_person_gives_a_second_opinion(server, make, store, queries, people):
    store.ask(queries[:1])
    task = lambda: server.task_of(queries[0].sample)  # noqa: E731
    people(lambda: (server.annotate(task(), "dark", user=1), server.annotate(task(), "bright", user=2)))
    make().annotate(queries[:1])
    assert store.labels() == {queries[0].sample: "dark"}
    assert store.agreement().disagreements == ((queries[0].sample, "dark", "bright"),)
    make().annotate(queries[:1])
    assert len(store.events()) == 2


def test_what_was_decided_elsewhere_stands(server, make, store, queries, people):
    store.ask(queries[:1])
    people(*answer_all(server, queries[:1]))
    make().annotate(queries[:1])
    store.record(Answer(queries[0].sample, "label", "dark", "Label Studio user 1"), source="page")
    make().annotate(queries[:1])
    assert store.labels() == {queries[0].sample: "dark"}


def test_a_skip_stands_until_somebody_annotates_the_task(server, make, store, queries, people):
    store.ask(queries[:1])
    people(lambda: server.annotate(server.tasks[0], cancelled=True))
    make().annotate(queries[:1])
    again = [Query(queries[0].sample, queries[0].path, 5)]
    store.ask(again)
    assert said(make().annotate(again)) == [("skip", None)], "nobody is shown it again, so the run does not wait"
    server.annotate(server.tasks[0], "dark")
    make().annotate(again)
    assert store.labels() == {queries[0].sample: "dark"}


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (["wasp"], "Task 1 of project 3: The label 'wasp' is none of the classes"),
        (["dark", "bright"], r"Task 1 of project 3: There are 2 choices \['dark', 'bright'\]"),
        ([], "Task 1 of project 3: it was submitted without a class"),
    ],
)
def test_an_annotation_that_is_no_class_is_told_once_and_changed(server, make, store, queries, people, choices, words):
    store.ask(queries[:1])
    wrong = lambda: server.annotate(server.tasks[0], *choices)  # noqa: E731
    people(wrong, lambda: None, wrong, lambda: server.annotate(server.tasks[0], "dark"))
    annotator = make()
    assert said(annotator.annotate(queries[:1])) == [("label", "dark")]
    assert len(annotator.lines) == 2
    assert re.search(words, annotator.lines[1])
    assert len(store.events()) == 1


def test_choices_of_another_control_do_not_count(server, make, store, queries, people):
    store.ask(queries[:1])

    def both():
        server.annotate(server.tasks[0], "dark")
        value = {"choices": ["blurred"]}
        server.tasks[0]["annotations"][0]["result"].append({"from_name": "quality", "value": value})

    people(both)
    assert said(make().annotate(queries[:1])) == [("label", "dark")]


def test_tasks_and_annotations_of_others_are_left_alone(server, make, store, queries, people):
    for data in ({"picture": "x.png"}, {"picture": "y.png", "torchloops_sample": "of another study"}):
        server.client().projects.import_tasks(id=3, request=[{"data": data}])
        server.annotate(server.tasks[-1], "dark")
    store.ask(queries[:1])
    people(lambda: server.annotate(server.tasks[-1], "dark"))
    make().annotate(queries[:1])
    assert store.labels() == {queries[0].sample: "dark"}
    assert len(server.tasks) == 3


def test_projects_of_many_pages_are_looked_through(server, make, store, queries, people):
    server.client().projects.import_tasks(id=3, request=[{"data": {"picture": "x.png"}}] * 450)
    store.ask(queries)
    people(*answer_all(server, queries))
    make().annotate(queries)
    assert said(make().annotate(queries)) == [("label", "bright")] * 4
    assert len(server.tasks) == 454


@pytest.mark.parametrize("score", [None, -0.3, 1.7])
def test_scores_that_label_studio_does_not_take_are_only_in_the_data(server, make, store, samples, people, score):
    query = Query(samples[0].hash, samples[0].paths[0], 0, 0, score, "dark")
    store.ask([query])
    people(*answer_all(server, [query]))
    make().annotate([query])
    assert "score" not in server.tasks[0]["predictions"][0]
    assert server.tasks[0]["data"]["torchloops_score"] == score


def test_pictures_may_have_addresses_of_their_own(server, make, store, queries, people):
    store.ask(queries[:1])
    people(*answer_all(server, queries[:1]))
    make(image_url="/data/local-files/?d=photos/{name}").annotate(queries[:1])
    assert server.tasks[0]["data"]["picture"] == f"/data/local-files/?d=photos/{queries[0].path.name}"
    assert not server.uploads


def test_a_picture_that_browsers_do_not_show_is_uploaded_as_png(server, make, store, people, tmp_path):
    path = tmp_path / "a.tif"
    Image.new("RGB", (5, 4), "red").save(path)
    query = Query("ab", path)
    store.ask([query])
    people(*answer_all(server, [query]))
    make().annotate([query])
    name, content, kind = server.uploads[0]
    assert (name, kind) == ("ab.png", "image/png")
    assert Image.open(io.BytesIO(content)).size == (5, 4)


def test_a_picture_that_cannot_be_read_is_flagged(server, make, store, queries, people, tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"nothing")
    broken = Query("ab", path, rank=9)
    store.ask([queries[0], broken])
    people(*answer_all(server, queries[:1]))
    annotator = make()
    assert said(annotator.annotate([queries[0], broken])) == [("label", "bright"), ("flag", None)]
    assert f"{path}: This picture cannot be read" in annotator.lines[-1]


def test_a_picture_that_is_gone_ends_the_run(make, store, samples):
    samples[0].paths[0].unlink()
    query = Query(samples[0].hash, samples[0].paths[0])
    store.ask([query])
    with pytest.raises(AnnotationError, match="is gone"):
        make().annotate([query])
    assert not store.events()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("<View></View>", "It has no <Choices> that belong to an <Image>"),
        ("no xml", "It has no <Choices>"),
        (CONFIG.replace('toName="img"', 'toName="other"'), "It has no <Choices>"),
        (CONFIG.replace("bright", "brigth"), r"'kind' lack \['bright'\] and have \['brigth'\] besides"),
        (CONFIG.replace(' alias="dark"', ""), r"lack \['dark'\] and have \['night'\]"),
    ],
)
def test_choices_that_are_not_the_classes_are_refused_with_what_to_paste(server, make, store, queries, config, words):
    store.ask(queries)
    server.config = config
    with pytest.raises(AnnotationError, match=words):
        make().annotate(queries)
    assert not server.tasks


def test_what_is_to_be_pasted_fits_names_of_any_kind(server, make, store):
    store.set_classes([*store.classes, '"<b>" & co', "Käfer's"])
    with pytest.raises(AnnotationError) as refused:
        make().annotate([])
    server.config = str(refused.value).partition("Code:\n")[2]
    make().annotate([])


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "does not take the token"), (403, "does not take the token"), (404, "no project 3"), (400, "it says 400")],
)
def test_what_label_studio_refuses_ends_the_run(server, make, store, queries, status, words):
    server.failures = [status]
    with pytest.raises(AnnotationError, match=words):
        make().annotate(queries)


def test_it_has_to_be_attached_and_to_have_an_address(queries, store, server):
    annotator = LabelStudioAnnotator("localhost:8080", "token", 3, client=server.client())
    with pytest.raises(AnnotationError, match="attached to no label store"):
        annotator.annotate(queries)
    annotator.attach(store)
    with pytest.raises(AnnotationError, match="begins with http://"):
        annotator.annotate(queries)


def test_without_the_sdk_the_extra_is_named(store, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "label_studio_sdk", None)
    annotator = LabelStudioAnnotator("http://studio", "token", 3)
    annotator.attach(store)
    with pytest.raises(MissingDependencyError, match=r'pip install "torchloops\[label-studio\]"'):
        annotator.annotate([])


# the real one


@pytest.fixture
def studio(tmp_path):
    """Label Studio, in a process of its own; the environment variable names its command."""
    command = os.environ.get("TORCHLOOPS_LABEL_STUDIO")
    if not command:
        pytest.skip("TORCHLOOPS_LABEL_STUDIO does not name the command label-studio")
    pytest.importorskip("label_studio_sdk")
    running = RealLabelStudio(command, tmp_path / "studio")
    running.start()
    yield running
    running.stop()


class RealLabelStudio:
    TOKEN = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self, command, folder):
        self.command = command
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self):
        self.folder.mkdir(exist_ok=True)
        settings = {
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.folder),
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "LATEST_VERSION_CHECK": "false",
            "COLLECT_ANALYTICS": "false",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
        }
        address = ["--internal-host", "127.0.0.1", "--port", str(self.port)]
        account = ["--username", "ada@example.org", "--password", "secret-word-1", "--user-token", self.TOKEN]
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [self.command, "start", "--no-browser", *address, *account],
                env={**os.environ, **settings}, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        end = time.monotonic() + 180
        while time.monotonic() < end:
            try:
                httpx.get(f"{self.url}/health", timeout=5).raise_for_status()
                return
            except httpx.HTTPError:
                assert self.process.poll() is None, (self.folder / "log.txt").read_text()
                time.sleep(0.5)
        raise AssertionError("Label Studio does not start")

    def stop(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def client(self):
        import label_studio_sdk

        return label_studio_sdk.LabelStudio(base_url=self.url, api_key=self.TOKEN)


class Run:
    """An annotator at work; it ends with the test."""

    def __init__(self, annotator, queries):
        self.found = None

        def work():
            try:
                self.found = annotator.annotate(queries)
            except BaseException as error:
                self.found = error

        threading.Thread(target=work, daemon=True).start()

    def answers(self):
        found = wait_until(lambda: self.found)
        if isinstance(found, BaseException):
            raise found
        return found


def wait_until(holds):
    end = time.monotonic() + 60
    while not (found := holds()):
        assert time.monotonic() < end, "it did not come to hold"
        time.sleep(0.1)
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Label Studio's SDK
def test_a_real_label_studio_that_is_killed_and_a_run_that_restarts(studio, store, samples, tmp_path):
    client = studio.client()
    project = client.projects.create(title="ants and bees", label_config=CONFIG).id
    queries = [Query(s.hash, s.paths[0], 0, rank, 1.5 - rank, "dark") for rank, s in enumerate(samples[:6])]
    store.ask(queries)
    lines = []

    def tasks():
        with suppress(httpx.HTTPError):
            return {t.data["torchloops_sample"]: t for t in client.tasks.list(project=project, fields="all")}
        return {}

    def annotate(query, choice):
        value = {"choices": [choice]}
        result = [{"from_name": "kind", "to_name": "img", "type": "choices", "value": value}]
        return client.annotations.create(id=tasks()[query.sample].id, result=result, lead_time=2.5)

    def start():
        annotator = LabelStudioAnnotator(studio.url, studio.TOKEN, project, poll=0.2, say=lines.append)
        annotator.attach(store)
        return Run(annotator, queries)

    first = start()
    wait_until(lambda: len(tasks()) == 6)
    pushed = [tasks()[query.sample] for query in queries]
    assert [task.id for task in pushed] == sorted(task.id for task in pushed)
    assert _plain(pushed[0].predictions[0])["result"][0]["value"] == {"choices": ["dark"]}
    shown = client._client_wrapper.httpx_client.request(pushed[0].data["picture"].lstrip("/"), method="GET")
    assert shown.content == queries[0].path.read_bytes()

    changed = annotate(queries[0], "bright")
    wait_until(lambda: store.decision(queries[0].sample))
    studio.stop()
    wait_until(lambda: any("does not answer" in line for line in lines))
    studio.start()
    annotate(queries[1], "dark")
    client.annotations.create(id=tasks()[queries[2].sample].id, result=[], was_cancelled=True)
    wait_until(lambda: store.decision(queries[2].sample))
    assert "Label Studio answers again." in lines

    client.annotations.update(id=changed.id, result=[{**changed.result[0], "value": {"choices": ["dark"]}}])
    wait_until(lambda: store.labels()[queries[0].sample] == "dark")
    second = start()  # as if the run had been started again: both look at the same tasks
    for query in queries[3:]:
        annotate(query, "bright")
    for run in (first, second):
        assert said(run.answers()) == [("label", "dark")] * 2 + [("skip", None)] + [("label", "bright")] * 3
    assert len(list(client.tasks.list(project=project))) == 6

    exported = client._client_wrapper.httpx_client.request(
        f"api/projects/{project}/export", method="GET", params={"exportType": "JSON"}
    )
    (tmp_path / "export.json").write_bytes(exported.content)
    with LabelStore(tmp_path / "fresh.sqlite") as fresh:
        fresh.set_classes(store.classes)
        index_pool(fresh, samples[0].paths[0].parent)
        assert import_labels(fresh, tmp_path / "export.json") == 6
        assert fresh.labels() == store.labels()
