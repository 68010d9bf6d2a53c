"""The labelling page's server against people who mean harm, make mistakes, or come all at once."""

import concurrent.futures
import contextlib
import http.client
import io
import json
import time

import httpx
import pytest
from PIL import Image

from torchloops.annotation import Answer, LabelStore, MaskedLabels, Query, WebAnnotator, index_pool
from torchloops.annotation.guard import Guard
from torchloops.annotation.server import labelling_app
from torchloops.annotation.web import LabellingServer
from torchloops.errors import AnnotationError, WaitingForLabels

WHO = {"session": "tab", "annotator": "Ada"}


@pytest.fixture
def asked(store, samples):
    """A store that asks for the first 20 samples."""
    queries = [Query(s.hash, s.paths[0], 0, rank, guess="bright") for rank, s in enumerate(samples[:20])]
    store.ask(queries)
    return queries


@pytest.fixture
def client(store, asked):
    with LabellingServer(store) as server, httpx.Client(base_url=server.address) as client:
        yield client


def say(client, query, label="dark", action="label", **more):
    body = {"sample": query.sample, "action": action, "label": label, "seconds": 1.5, **WHO, **more}
    return client.post("/api/answer", json=body)


def test_a_round_by_hand(client, store, asked):
    state = client.get("/api/state", params=WHO).json()
    assert [entry["sample"] for entry in state["next"]] == [query.sample for query in asked[:6]]
    assert (state["n_asked"], state["n_decided"], state["round"]) == (20, 0, 0)
    assert [entry["key"] for entry in state["classes"]] == ["1", "2"]
    state = say(client, asked[0]).json()
    assert store.labels() == {asked[0].sample: "dark"}, "saved before it is confirmed"
    assert (state["n_decided"], state["n_labelled"], state["latest"][0]["label"]) == (1, 1, "dark")
    say(client, asked[1], None, "skip")
    say(client, asked[2], None, "flag")
    assert [entry["action"] for entry in client.get("/api/state", params=WHO).json()["latest"]] == [
        "flag", "skip", "label"
    ]  # fmt: skip
    state = client.post("/api/undo", json=WHO).json()
    assert state["undone"] == state["next"][0]["sample"] == asked[2].sample, "what was taken back is shown next"
    event = store.events()[0]
    assert (event.annotator, event.seconds, event.guess, event.source) == ("Ada", 1.5, "bright", "page")


def test_pictures_come_by_id_and_only_from_the_pool(client, store, asked, samples, tmp_path):
    response = client.get(f"/picture/{asked[0].sample}")
    assert response.headers["content-type"] == "image/png"
    assert response.content == asked[0].path.read_bytes()
    (tmp_path / "secret.txt").write_text("secret")
    never_asked = samples[30].hash
    for name in (never_asked, "x", "..%2f..%2fsecret.txt", "%2e%2e/secret.txt", "....//secret.txt", str(asked[0].path),
                 "%00", "a" * 3000, f"{asked[0].sample}/../../labels.sqlite"):  # fmt: skip
        response = client.get(f"/picture/{name}")
        assert response.status_code == 404, name
        assert "secret" not in response.text.replace(name, "")
    for path in ("/../../../../etc/passwd", "/page/../server.py", "/labels.sqlite", "/.git/config", "/server.py"):
        connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port)
        connection.request("GET", path)  # httpx would tidy the path
        answer = connection.getresponse()
        assert answer.status in (400, 404), path
        assert b"root:" not in answer.read()
        connection.close()


def test_formats_that_browsers_do_not_know_are_shown_as_png(client, store, pool):
    Image.new("I;16", (20, 10), 3000).save(pool / "deep.tif")
    Image.new("RGB", (5000, 40), "red").save(pool / "wide.png")
    (pool / "broken.png").write_bytes(b"\x89PNG no picture")
    found = {sample.paths[0].name: sample for sample in index_pool(store, pool)}
    store.ask(
        [
            Query(found[name].hash, round=1, rank=rank)
            for rank, name in enumerate(("deep.tif", "wide.png", "broken.png"))
        ]
    )
    assert client.get(f"/picture/{found['deep.tif'].hash}").headers["content-type"] == "image/png"
    response = client.get(f"/picture/{found['wide.png'].hash}")
    with Image.open(io.BytesIO(response.content)) as shown:
        assert shown.size[0] == 4096
    response = client.get(f"/picture/{found['broken.png'].hash}")
    assert response.status_code == 422
    assert "Flag or skip" in response.json()["problem"]
    found["deep.tif"].paths[0].unlink()
    assert client.get(f"/picture/{found['deep.tif'].hash}").status_code == 404


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"label": "drak"}, "none of the classes"),
        ({"label": None}, "none of the classes"),
        ({"label": ["dark"]}, "none of the classes"),
        ({"label": {"a": 1}}, "none of the classes"),
        ({"action": "delete"}, "An action is one of"),
        ({"action": 5}, "Expected text"),
        ({"sample": "ffff"}, "never asked"),
        ({"sample": None}, "Expected text"),
        ({"annotator": ""}, "A name has"),
        ({"annotator": "a\nb"}, "A name has"),
        ({"annotator": "a" * 101}, "A name has"),
        ({"session": None}, "Expected text"),
    ],
)
def test_answers_that_do_not_fit_are_refused_by_name(client, store, asked, body, words):
    whole = {"sample": asked[0].sample, "action": "label", "label": "dark", "seconds": 1, **WHO, **body}
    response = client.post("/api/answer", json=whole)
    assert response.status_code == 422
    assert words in response.json()["problem"]
    assert store.events() == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'"text"', b"[" * 30_000, b'{"a": NaN}'])
def test_bodies_that_are_no_answers_are_refused(client, store, body):
    response = client.post("/api/answer", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert "Traceback" not in response.text
    assert store.events() == []


def test_a_huge_body_is_refused(client, store):
    headers = {"content-type": "application/json"}
    assert client.post("/api/answer", content=b"x" * 200_000, headers=headers).status_code == 413
    chunks = (b"y" * 10_000 for _ in range(1000))
    with contextlib.suppress(httpx.HTTPError):  # the server may close while the body is still coming
        assert client.post("/api/answer", content=chunks, headers=headers).status_code == 413
    assert client.get("/api/state", params=WHO).status_code == 200
    assert store.events() == []


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"host": "evil.example"},
    ],
)
def test_pages_of_other_sites_change_nothing(client, store, asked, headers):
    body = json.dumps({"sample": asked[0].sample, "action": "label", "label": "dark", **WHO})
    for address in ("/api/answer", "/api/undo", "/api/class"):
        response = client.post(address, content=body, headers={"content-type": "application/json", **headers})
        assert response.status_code == 403
    assert store.events() == []


def test_another_name_for_this_machine_shows_nothing(client):
    assert client.get("/", headers={"host": "rebound.example"}).status_code == 403
    assert client.get("/", headers={"host": "localhost:80"}).status_code == 200
    assert client.get("/", headers={"host": "[::1]:80"}).status_code == 200


def test_every_answer_forbids_what_the_page_does_not_need(client, asked):
    for address in ("/", "/page.js", "/style.css", f"/picture/{asked[0].sample}", "/api/state", "/nowhere"):
        headers = client.get(address).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    page = client.get("/").text + client.get("/page.js").text + client.get("/style.css").text
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    assert "innerHTML" not in page


def test_elsewhere_than_on_this_machine_the_page_asks_for_its_token(store, asked):
    with LabellingServer(store, "0.0.0.0") as server:
        address = httpx.URL(server.address)
        token = address.params["token"]
        assert len(token) >= 32
        base = f"http://127.0.0.1:{address.port}"
        for given in ({}, {"params": {"token": ""}}, {"params": {"token": token[:-1]}}, {"params": {"token": "é"}},
                      {"cookies": {"torchloops_token": "x"}}):  # fmt: skip
            with httpx.Client(base_url=base, **given) as client:
                for path in ("/", "/page.js", "/api/state", f"/picture/{asked[0].sample}"):
                    response = client.get(path)
                    assert response.status_code == 403, given
                    assert token not in response.text
                assert say(client, asked[0]).status_code == 403
        with httpx.Client(base_url=base) as client:
            first = client.get("/", params={"token": token})
            assert first.status_code == 200
            cookie = first.headers["set-cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
            assert client.get("/page.js").status_code == 200, "the cookie is enough from here on"
            assert say(client, asked[0]).status_code == 200
            evil = {"origin": "http://evil.example", "content-type": "application/json"}
            assert client.post("/api/undo", json=WHO, headers=evil).status_code == 403
    assert len(store.labels()) == 1


def test_what_goes_wrong_inside_is_not_shown(store, asked, monkeypatch):
    def broken(*_):
        raise RuntimeError("secret path /home/x")

    monkeypatch.setattr(LabelStore, "progress", broken)
    with LabellingServer(store) as server, httpx.Client(base_url=server.address) as client:
        response = client.get("/api/state", params=WHO)
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "Traceback" not in response.text


def test_a_port_that_is_taken_is_refused_by_name(store):
    with LabellingServer(store) as server:
        port = httpx.URL(server.address).port
        with pytest.raises(AnnotationError, match=f"port {port}.*port 0 takes a free one"):
            LabellingServer(store, port=port)
    with pytest.raises(AnnotationError, match="cannot listen on"):
        LabellingServer(store, "203.0.113.7")


def label_all(address, annotator, until):
    """One client: takes what it is given and labels it; what it was told is saved."""
    told = []
    with httpx.Client(base_url=address, timeout=60) as client:
        who = {"session": annotator, "annotator": annotator}
        while time.monotonic() < until:
            state = client.get("/api/state", params=who).json()
            if not state["next"]:
                break
            query = state["next"][0]
            body = {"sample": query["sample"], "action": "label", "label": "dark", "seconds": 0.1, **who}
            response = client.post("/api/answer", json=body)
            assert response.status_code == 200
            told.append((query["sample"], annotator))
            if len(told) % 7 == 0:
                undone = client.post("/api/undo", json=who).json()["undone"]
                told = [entry for entry in told if entry[0] != undone]
    return told


@pytest.mark.slow
def test_fifty_clients_at_once_lose_no_label_and_label_nothing_twice(store):
    store.ask([Query(f"{index:08x}", rank=index) for index in range(20_000)])
    with LabellingServer(store) as server, concurrent.futures.ThreadPoolExecutor(50) as pool:
        until = time.monotonic() + 30
        futures = [pool.submit(label_all, server.address, f"person {n}", until) for n in range(50)]
        told = [entry for future in futures for entry in future.result()]
    assert len(told) > 50
    kept = {sample: event.annotator for sample, event in store.decisions().items()}
    assert dict(told) == kept
    assert len(told) == len(kept), "nobody was given what another had"
    assert not any(event.second for event in store.events())


def test_the_annotator_waits_for_people_and_goes_on(store, asked):
    lines = []
    annotator = WebAnnotator(open_browser=False, say=lines.append)
    with pytest.raises(AnnotationError, match="attach"):
        annotator.annotate(asked)
    annotator.attach(store)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(annotator.annotate, asked[:3])
        while not lines:
            time.sleep(0.01)
        with httpx.Client(base_url=lines[0].split()[1]) as client:
            for query in asked[:2]:
                say(client, query, "bright")
            assert not waiting.done()
            say(client, asked[2], None, "skip")
            answers = waiting.result(timeout=10)
            assert [(answer.action, answer.label) for answer in answers] == [("label", "bright")] * 2 + [("skip", None)]
            annotator.note("training", round=1)
            assert client.get("/api/state", params=WHO).status_code == 200, "the page stays while the model trains"
    annotator.note("finished")
    annotator.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(lines[0].split()[1])


def test_a_detached_annotator_opens_nothing(store, asked):
    annotator = WebAnnotator(detach=True, say=lambda line: pytest.fail(line))
    annotator.attach(store)
    with pytest.raises(WaitingForLabels, match="20 questions wait"):
        annotator.annotate(asked)
    for query in asked:
        store.record(Answer(query.sample, "label", "dark", "Ada"))
    assert len(annotator.annotate(asked)) == 20


def test_the_guard_is_around_the_application(store):
    assert isinstance(labelling_app(store), Guard)
    assert MaskedLabels({"a": "b"}).annotate([]) == []
