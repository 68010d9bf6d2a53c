"""LabelStore: what is written stays, and what holds now follows from it."""

import random
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from torchloops.annotation import Answer, LabelStore, Query
from torchloops.errors import AnnotationError


def ask(store, n, round=0, **options):
    queries = [Query(f"{index:08x}", None, round, index, **options) for index in range(n)]
    store.ask(queries)
    return queries


def label(store, index, name="dark", annotator="Ada", **options):
    return store.record(Answer(f"{index:08x}", "label", name, annotator, 1.0), **options)


def test_what_holds_is_the_replay_of_the_events(store):
    """A slow oracle replays the events by hand after 2,000 random actions of three people."""
    ask(store, 40)
    draw = random.Random(0)
    for _ in range(2000):
        annotator, sample = draw.choice(["Ada", "Bob", "Eve"]), f"{draw.randrange(40):08x}"
        action = draw.choice(["label", "label", "label", "skip", "flag", "later", "undo"])
        if action == "undo":
            store.undo(annotator)
        else:
            store.record(Answer(sample, action, draw.choice(store.classes) if action == "label" else None, annotator))
    events = store.events()
    undone = {event.undoes for event in events if event.undoes is not None}
    decisions, firsts = {}, {}
    for event in events:
        if event.action == "undo" or event.id in undone or event.second or event.action == "later":
            continue
        decisions[event.sample] = (event.action, event.label)
    assert {name: (event.action, event.label) for name, event in store.decisions().items()} == decisions
    assert store.labels() == {name: said[1] for name, said in decisions.items() if said[0] == "label"}
    is_open = {query.sample for query in store.open_queries()}
    assert is_open == {f"{index:08x}" for index in range(40)} - decisions.keys()
    assert store.progress().n_decided == len(decisions)
    # who decides: the first that counts, at the moment of each event
    undone_by = {event.undoes: event.id for event in events if event.undoes is not None}
    for event in events:
        if event.action == "undo":
            continue
        before = [
            e for e in events if e.id < event.id and e.sample == event.sample and not e.second
            and e.action in ("label", "skip", "flag") and undone_by.get(e.id, 10**9) > event.id
        ]  # fmt: skip
        assert bool(event.second) == bool(before and before[-1].annotator != event.annotator), event
        firsts[event.sample] = event


def test_undo_takes_back_one_after_the_other_and_only_ones_own(store):
    ask(store, 5)
    for index in range(4):
        label(store, index, annotator="Ada" if index % 2 else "Bob")
    assert [store.undo("Ada").sample for _ in range(2)] == ["00000003", "00000001"]
    assert store.undo("Ada") is None
    assert set(store.labels()) == {"00000000", "00000002"}
    assert [event.action for event in store.events()].count("undo") == 2
    assert len(store.events()) == 6


def test_rows_are_only_added(store):
    ask(store, 2)
    label(store, 0)
    connection = sqlite3.connect(store.path)
    for statement in ("UPDATE events SET label = 'bright'", "DELETE FROM events", "DELETE FROM queries",
                      "UPDATE classes SET name = 'x'", "DELETE FROM samples WHERE 1"):  # fmt: skip
        if "samples" in statement:
            connection.execute("INSERT INTO samples VALUES (0, 'a')")
        with pytest.raises(sqlite3.IntegrityError, match="only added"):
            connection.execute(statement)
    connection.close()
    assert store.labels() == {"00000000": "dark"}


def test_two_tabs_never_get_the_same_picture(store):
    ask(store, 20)
    one, two = store.take("one", "Ada", 6), store.take("two", "Ada", 6)
    assert [query.rank for query in one] == list(range(6))
    assert [query.rank for query in two] == list(range(6, 12))
    assert [query.rank for query in store.take("one", "Ada", 6)] == list(range(6)), "a reload shows the same"
    store.release("two")
    assert [query.rank for query in store.take("three", "Bob", 3)] == [6, 7, 8]


def test_a_picture_that_nobody_looks_at_any_more_is_given_to_the_next(store):
    ask(store, 3)
    assert len(store.take("gone", "Ada", 3, lease=1.5)) == 3
    assert store.take("here", "Bob", 3) == []
    time.sleep(1.6)
    assert len(store.take("here", "Bob", 3)) == 3


def test_what_is_put_off_comes_last(store):
    ask(store, 3)
    store.record(Answer("00000000", "later", annotator="Ada"))
    assert [query.rank for query in store.take("one", "Ada")] == [1, 2, 0]
    assert not store.progress().complete


def test_a_round_that_is_asked_again_changes_nothing(store):
    queries = ask(store, 4)
    label(store, 1)
    store.ask(queries)
    assert len(store.queries()) == 4
    assert [query.rank for query in store.open_queries()] == [0, 2, 3]
    store.ask([Query("0000000a", round=1)])
    assert [query.sample for query in store.open_queries()] == ["0000000a"]
    label(store, 0)  # somebody still had it on the screen
    assert store.labels() == {"00000000": "dark", "00000001": "dark"}
    assert store.progress() == store.progress().__class__(1, 1, 0, 2)


def test_a_skipped_sample_that_is_asked_again_is_open_again(store):
    queries = ask(store, 2)
    store.record(Answer("00000000", "skip", annotator="Ada"))
    store.ask([Query("00000000", round=1)])
    assert [query.sample for query in store.open_queries()] == ["00000000"]
    label(store, 0, annotator="Bob")
    assert store.labels() == {"00000000": "dark"}, "no second opinion: the skip was of an earlier question"
    assert [answer.action for answer in store.answers(queries)] == ["label", "later"]


def test_another_opinion_decides_nothing_and_counts_for_the_agreement(store):
    ask(store, 6)
    store.set_double_share(1.0)
    firsts = ["dark", "dark", "dark", "bright", "bright", "bright"]
    seconds = ["dark", "dark", "bright", "bright", "bright", "dark"]
    for index, name in enumerate(firsts):
        label(store, index, name)
    assert store.take("one", "Ada") == [], "nobody is asked twice"
    assert len(store.take("two", "Bob")) == 6
    for index, name in enumerate(seconds):
        label(store, index, name, annotator="Bob")
    assert list(store.labels().values()) == firsts
    agreement = store.agreement()
    observed, by_chance = 4 / 6, 0.5 * 0.5 + 0.5 * 0.5
    assert agreement.kappa == pytest.approx((observed - by_chance) / (1 - by_chance))
    assert agreement.n == 6
    assert {sample for sample, *_ in agreement.disagreements} == {"00000002", "00000005"}
    label(store, 2, "bright")
    assert store.labels()["00000002"] == "bright", "the first annotator may change their mind"


def test_agreement_that_is_not_defined(store):
    ask(store, 2)
    assert store.agreement().kappa is None
    for annotator in ("Ada", "Bob"):
        label(store, 0, annotator=annotator)
        label(store, 1, annotator=annotator)
    assert (store.agreement().n, store.agreement().kappa) == (2, None), "one class only"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer("00000000", "label", "drak", "Ada"), 'none of the classes .*Did you mean "dark"'),
        (Answer("00000000", "label", None, "Ada"), "none of the classes"),
        (Answer("00000000", "drop", None, "Ada"), "An action is one of"),
        (Answer("000000ff", "label", "dark", "Ada"), "was never asked"),
        (Answer("00000000", "label", "dark", " "), "name of its annotator"),
    ],
)
def test_answers_that_do_not_fit_are_refused(store, answer, words):
    ask(store, 1)
    with pytest.raises(AnnotationError, match=words):
        store.record_all([Answer("00000000", "label", "dark", "Ada"), answer])
    assert store.events() == [], "all or none"


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), 1e9, "3", True])
def test_seconds_that_cannot_be_are_not_believed(store, seconds):
    ask(store, 1)
    store.record(Answer("00000000", "label", "dark", "Ada", seconds))
    assert store.events()[0].seconds is None
    assert store.seconds_of_people() == 0.0


def test_classes_are_added_where_there_is_room(store):
    store.set_setting("max_classes", 3)
    assert store.add_class("  grey ") == 2
    assert store.add_class("dark") == 0
    with pytest.raises(AnnotationError, match=r"3 outputs.*no room for 'blue'"):
        store.add_class("blue")
    store.set_classes(["dark", "bright"])
    assert store.classes == ["dark", "bright", "grey"]
    for names, words in ((["bright", "dark"], "in that order"), (["a", "a"], "twice"), (["", "b"], "needs a name"),
                         (["x" * 201], "needs a name"), (["a\nb"], "needs a name"), ([3], "needs a name")):  # fmt: skip
        with pytest.raises(AnnotationError, match=words):
            store.set_classes(names)


def test_files_that_are_no_store_are_refused_and_left_as_they_are(tmp_path):
    cases = {"text.sqlite": b"a,b\n" * 200}
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE t (a)")
    other.commit()
    other.close()
    newer = LabelStore(tmp_path / "newer.sqlite")
    newer.close()
    changed = sqlite3.connect(tmp_path / "newer.sqlite")
    changed.execute("PRAGMA user_version = 9")
    changed.close()
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
    for name, words in (("text.sqlite", "not a database"), ("other.sqlite", "another program's"),
                        ("newer.sqlite", "format 9, newer"), ("none/labels.sqlite", "unable to open")):  # fmt: skip
        before = (tmp_path / name).read_bytes() if (tmp_path / name).exists() else None
        with pytest.raises(AnnotationError, match=words):
            LabelStore(tmp_path / name)
        assert before is None or (tmp_path / name).read_bytes() == before


def test_threads_and_processes_write_at_the_same_time_and_lose_nothing(store):
    ask(store, 400)
    script = (
        "import sys\nfrom torchloops.annotation import Answer, LabelStore\nstore = LabelStore(sys.argv[1])\n"
        "for index in range(0, 100): store.record(Answer(f'{index:08x}', 'label', 'dark', 'process'))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(store.path)])

    def write(first):
        for index in range(first, first + 100):
            label(store, index, annotator=f"thread {first}")

    threads = [threading.Thread(target=write, args=(first,)) for first in (100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert process.wait() == 0
    assert len(store.labels()) == len(store.events()) == 400


def test_settings_and_status(store):
    assert store.status() == {}
    store.set_status(phase="training", round=2)
    assert {"phase": "training", "round": 2}.items() <= store.status().items()
    assert store.setting("nothing", 5) == 5
