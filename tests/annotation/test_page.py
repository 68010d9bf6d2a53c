"""The labelling page in a real browser, by keyboard, as a person uses it."""

import shutil
import signal
import socket
import subprocess
import sys

import pytest

from torchloops.annotation import Answer, LabelStore, Query, index_pool
from torchloops.annotation.web import LabellingServer

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Person:
    """A tab of the page: types keys, and waits for what they bring."""

    def __init__(self, browser, address, name="Ada", context=None, **options):
        from playwright.sync_api import expect

        self.expect, self.context = expect, context or browser.new_context(**options)
        self.page = self.context.new_page()
        self.errors = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.goto(f"{address}?name={name}")

    def sees(self, words):
        self.expect(self.page.locator("#progress")).to_have_text(words)

    def types(self, key, words):
        self.page.keyboard.press(key)
        self.sees(words)

    @property
    def picture(self):
        return self.page.locator("#picture").get_attribute("src").removeprefix("picture/")


@pytest.fixture
def asked(store, samples):
    queries = [Query(s.hash, s.paths[0], 0, rank, guess="bright") for rank, s in enumerate(samples[:6])]
    store.ask(queries)
    return queries


def actions(store):
    return [(event.action, event.label) for event in store.decisions().values()]


def test_a_round_by_keyboard(browser, store, asked):
    with LabellingServer(store) as server:
        person = Person(browser, server.address)
        person.sees("round 0 - 1 of 6 - 0 labelled")
        assert person.picture == asked[0].sample
        person.types("1", "round 0 - 2 of 6 - 1 labelled")
        person.types("2", "round 0 - 3 of 6 - 2 labelled")
        person.types("Space", "round 0 - 4 of 6 - 2 labelled")
        person.types("f", "round 0 - 5 of 6 - 2 labelled")
        assert actions(store) == [("label", "dark"), ("label", "bright"), ("skip", None), ("flag", None)]
        person.types("Backspace", "round 0 - 4 of 6 - 2 labelled")
        assert person.picture == asked[3].sample
        person.types("Control+z", "round 0 - 3 of 6 - 2 labelled")
        person.types("Backspace", "round 0 - 2 of 6 - 1 labelled")
        assert actions(store) == [("label", "dark")]
        person.page.reload()
        person.sees("round 0 - 2 of 6 - 1 labelled")
        assert person.picture == asked[1].sample
        person.page.keyboard.press("l")
        person.expect(person.page.locator("#picture")).to_have_attribute("src", f"picture/{asked[2].sample}")
        for number in range(3, 6):
            person.types("2", f"round 0 - {number} of 6 - {number - 1} labelled")
        person.types("2", "round 0 - 6 of 6 - 5 labelled")
        assert person.picture == asked[1].sample, "what was put off comes last"
        person.types("1", "round 0 - 6 of 6 - 6 labelled")
        person.expect(person.page.locator("#headline")).to_have_text("All questions are answered")
        labels = store.labels()
        assert [labels[query.sample] for query in asked] == ["dark", "dark", "bright", "bright", "bright", "bright"]
        assert person.errors == []


def test_the_guess_is_shown_on_request_and_a_key_that_is_held_counts_once(browser, store, asked):
    with LabellingServer(store) as server:
        person = Person(browser, server.address)
        person.sees("round 0 - 1 of 6 - 0 labelled")
        person.expect(person.page.locator("#guess")).to_be_hidden()
        person.page.keyboard.press("g")
        person.expect(person.page.locator("#guess")).to_have_text("The model would say: bright")
        person.page.keyboard.press("h")
        person.expect(person.page.locator("#keys")).to_be_visible()
        person.page.keyboard.down("1")
        person.sees("round 0 - 2 of 6 - 1 labelled")
        for _ in range(5):
            person.page.keyboard.down("1")  # what a held key sends
        person.page.wait_for_timeout(300)
        person.sees("round 0 - 2 of 6 - 1 labelled")


def test_two_tabs_show_different_pictures_also_when_one_is_a_copy(browser, store, asked):
    with LabellingServer(store) as server:
        one = Person(browser, server.address)
        one.sees("round 0 - 1 of 6 - 0 labelled")
        two = Person(browser, server.address, context=one.context)
        two.page.evaluate("session => sessionStorage.setItem('session', session)", one.page.evaluate(
            "() => sessionStorage.getItem('session')"))  # fmt: skip
        two.page.reload()
        two.page.wait_for_timeout(500)
        sessions = {tab.page.evaluate("() => sessionStorage.getItem('session')") for tab in (one, two)}
        assert len(sessions) == 2


def test_an_earlier_answer_is_changed(browser, store, asked):
    with LabellingServer(store) as server:
        person = Person(browser, server.address)
        person.sees("round 0 - 1 of 6 - 0 labelled")
        person.types("1", "round 0 - 2 of 6 - 1 labelled")
        person.types("1", "round 0 - 3 of 6 - 2 labelled")
        person.page.locator("#latest button").nth(1).click()
        person.expect(person.page.locator("#notice")).to_be_visible()
        assert person.picture == asked[0].sample
        person.page.keyboard.press("2")
        person.expect(person.page.locator("#notice")).to_be_hidden()
        assert person.picture == asked[2].sample
        assert actions(store) == [("label", "dark"), ("label", "bright")]
        assert store.labels()[asked[0].sample] == "bright"


def test_what_cannot_be_saved_is_said_and_the_picture_stays(browser, store, asked):
    server = LabellingServer(store)
    port = int(server.address.rpartition(":")[2])
    person = Person(browser, server.address)
    person.sees("round 0 - 1 of 6 - 0 labelled")
    server.close()
    person.page.keyboard.press("1")
    person.expect(person.page.locator("#problem")).to_contain_text("was not saved")
    assert person.picture == asked[0].sample
    with LabellingServer(store, port=port):
        person.expect(person.page.locator("#problem")).to_be_hidden(timeout=10_000)
        person.types("1", "round 0 - 2 of 6 - 1 labelled")
    assert store.labels() == {asked[0].sample: "dark"}


def test_names_of_any_characters_are_shown_as_they_are(browser, pool, tmp_path):
    names = ["<b>bold</b>", '$cost$ & "quotes"', "a/b\\c", "x" * 200, "<img src=x onerror=alert(1)>"]
    with LabelStore(tmp_path / "names.sqlite") as store:
        store.set_classes(names)
        store.set_setting("max_classes", 6)
        sample = index_pool(store, pool)[0]
        store.ask([Query(sample.hash)])
        with LabellingServer(store) as server:
            person = Person(browser, server.address, viewport={"width": 360, "height": 740})
            person.sees("round 0 - 1 of 1 - 0 labelled")
            shown = person.page.locator("#classes button").all_text_contents()
            assert shown == [f"{key}{name}" for key, name in enumerate(names, 1)]
            wide = person.page.evaluate("() => document.documentElement.scrollWidth")
            assert wide <= 360, "nothing runs over the edge of a phone"
            person.page.locator("#new-class").fill("<i>new</i>")
            person.page.locator("#add button").click()
            person.expect(person.page.locator("#classes button")).to_have_count(6)
            person.expect(person.page.locator("#add")).to_be_hidden()
            person.page.locator("#picture").click()
            person.types("6", "round 0 - 1 of 1 - 1 labelled")
            assert store.labels() == {sample.hash: "<i>new</i>"}
            assert person.page.locator("#latest").inner_text().strip() == "<i>new</i>"


def test_sixty_classes_are_filtered(browser, pool, tmp_path):
    with LabelStore(tmp_path / "many.sqlite") as store:
        store.set_classes([f"class number {index}" for index in range(60)])
        samples = index_pool(store, pool)[:2]
        store.ask([Query(sample.hash, rank=rank) for rank, sample in enumerate(samples)])
        with LabellingServer(store) as server:
            person = Person(browser, server.address)
            person.sees("round 0 - 1 of 2 - 0 labelled")
            person.page.keyboard.press("/")
            person.page.keyboard.type("r 57")
            person.expect(person.page.locator("#classes button")).to_have_count(1)
            person.types("Enter", "round 0 - 2 of 2 - 1 labelled")
            person.expect(person.page.locator("#classes button")).to_have_count(60)
            person.types("a", "round 0 - 2 of 2 - 2 labelled")
            assert list(store.labels().values()) == ["class number 57", "class number 10"]


def test_small_pictures_are_enlarged_crisply_and_broken_ones_are_named(browser, store, pool):
    (pool / "broken.png").write_bytes(b"no picture")
    found = {sample.paths[0].name: sample for sample in index_pool(store, pool)}
    store.ask([Query(found["photo_00.png"].hash, rank=0), Query(found["broken.png"].hash, rank=1)])
    with LabellingServer(store) as server:
        person = Person(browser, server.address)
        person.expect(person.page.locator("#picture.small")).to_be_visible()
        assert person.page.locator("#picture").bounding_box()["height"] > 200
        person.page.keyboard.press("1")
        person.expect(person.page.locator("#broken")).to_contain_text("This picture cannot be read. Flag or skip it.")
        person.types("f", "round 0 - 2 of 2 - 1 labelled")


def test_the_page_says_what_the_run_is_doing(browser, store, asked):
    for query in asked:
        store.record(Answer(query.sample, "label", "dark", "Eve"))
    store.set_status(phase="training", curve=[[10, 0.5], [20, 0.9]], metric="test/accuracy", seconds=120)
    with LabellingServer(store, next_command="torchloops resume runs/x") as server:
        person = Person(browser, server.address)
        person.expect(person.page.locator("#headline")).to_have_text("The model trains")
        person.expect(person.page.locator("#what-next")).to_contain_text("about 2 minutes more")
        title = person.page.locator("#curve title")
        person.expect(title).to_have_text(
            "test/accuracy against the number of labels; the last is 90.0 % with 20 labels"
        )
        store.set_status(phase="labelling")
        person.expect(person.page.locator("#what-next")).to_have_text("Go on with the run: torchloops resume runs/x")
        store.ask([Query(asked[0].sample, round=1)])
        store.record(Answer(asked[0].sample, "skip", None, "Eve"))
        store.ask([Query(asked[0].sample, round=2)])
        person.sees("round 2 - 1 of 1 - 5 labelled")


SERVE = """
import sys, time
from torchloops.annotation import LabelStore
from torchloops.annotation.web import LabellingServer
with LabelStore(sys.argv[1]) as store, LabellingServer(store, port=int(sys.argv[2])) as server:
    print(server.address, flush=True)
    time.sleep(600)
"""


def test_the_server_is_killed_between_two_keys(browser, store, samples):
    queries = [Query(sample.hash, sample.paths[0], 0, rank) for rank, sample in enumerate(samples[:24])]
    store.ask(queries)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def serve():
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(store.path), str(port)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline().startswith("http")
        return process

    process = serve()
    person = Person(browser, f"http://127.0.0.1:{port}")
    person.sees("round 0 - 1 of 24 - 0 labelled")
    typed = {}
    for number, query in enumerate(queries, 1):
        assert person.picture == query.sample
        key = "12"[number % 3 == 0]
        typed[query.sample] = ["dark", "bright"][int(key) - 1]
        person.types(key, f"round 0 - {min(number + 1, 24)} of 24 - {number} labelled")
        if number in (5, 11, 18):
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
            process = serve()
        if number == 14:
            person.page.reload()
            person.sees("round 0 - 15 of 24 - 14 labelled")
    process.kill()
    process.wait()
    process.stdout.close()
    assert store.labels() == typed
    assert len(store.events()) == 24
