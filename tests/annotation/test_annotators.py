"""MaskedLabels and TerminalAnnotator: the annotators that need no server."""

import pytest

from torchloops.annotation import Answer, MaskedLabels, Query, TerminalAnnotator
from torchloops.annotation.annotators import class_keys
from torchloops.errors import AnnotationError


@pytest.fixture
def queries(store, samples):
    found = [Query(s.hash, s.paths[0], 1, rank, 0.5, "dark" if rank else None) for rank, s in enumerate(samples[:3])]
    store.ask(found)
    return found


@pytest.fixture
def at_terminal(store):
    """``at_terminal(*keys)``: a person who types these lines and then ends the input."""

    def make(*typed, **options):
        keys, lines = list(typed), []

        def ask(prompt):
            if not keys:
                raise EOFError
            key = keys.pop(0)
            return key() if callable(key) else key

        annotator = TerminalAnnotator(ask=ask, say=lines.append, **options)
        annotator.attach(store)
        annotator.lines, annotator.left = lines, keys
        return annotator

    return make


def said(answers):
    return [(answer.action, answer.label) for answer in answers]


# hidden labels


def test_hidden_labels_answer_at_once(samples, truth):
    queries = [Query(sample.hash, sample.paths[0]) for sample in samples]
    by_folder = MaskedLabels(truth).annotate(queries)
    by_name = MaskedLabels({answer.sample: answer.label for answer in by_folder}).annotate(queries)
    assert by_folder == by_name
    assert sorted({answer.label for answer in by_folder}) == ["bright", "dark"]
    assert {answer.seconds for answer in by_folder} == {0.0}
    for query, answer in zip(queries, by_folder, strict=True):
        number = int(query.path.stem.removeprefix("photo_"))
        assert answer == Answer(query.sample, "label", ["dark", "bright"][number % 2], "truth", 0.0)


def test_class_folders_may_have_names_as_they_are_exported(tmp_path, truth, samples):
    (truth / "dark").rename(truth / "a%2Fb")
    labels = {answer.label for answer in MaskedLabels(truth).annotate([Query(sample.hash) for sample in samples])}
    assert labels == {"a/b", "bright"}


def test_a_sample_without_a_hidden_label_is_named(tmp_path):
    with pytest.raises(AnnotationError, match=r"no hidden label of .*new\.png"):
        MaskedLabels({}).annotate([Query("ab", tmp_path / "new.png")])


def test_folders_that_hold_no_truth_are_refused(tmp_path, truth, pool):
    with pytest.raises(AnnotationError, match="There is no folder"):
        MaskedLabels(tmp_path / "gone")
    with pytest.raises(AnnotationError, match="no picture in a class folder"):
        MaskedLabels(pool)
    (truth / "dark" / "again.png").write_bytes((truth / "bright" / "01.png").read_bytes())
    with pytest.raises(AnnotationError, match="the same picture in two classes"):
        MaskedLabels(truth)


# at the terminal


def test_keys_and_names_are_answers(store, queries, at_terminal):
    answers = at_terminal("1", "bright", "s").annotate(queries)
    assert said(answers) == [("label", "dark"), ("label", "bright"), ("skip", None)]
    assert [(event.source, event.annotator) for event in store.events()] == [("terminal", "terminal")] * 3
    assert all(event.seconds >= 0 for event in store.events())


def test_each_answer_is_kept_before_the_next_question(store, queries, at_terminal):
    kept = []

    def look():
        kept.append(len(store.events()))
        return "f"

    at_terminal(look, look, look).annotate(queries)
    assert kept == [0, 1, 2]


def test_the_end_of_the_input_puts_off_the_rest(store, queries, at_terminal):
    assert said(at_terminal("2").annotate(queries)) == [("label", "bright"), ("later", None), ("later", None)]
    assert said(at_terminal("1", "1").annotate(queries)) == [("label", "bright"), ("label", "dark"), ("label", "dark")]
    assert [query.sample for query in store.take("another", "Ada")] == []


def test_an_interrupted_terminal_holds_no_picture(store, queries, at_terminal):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        at_terminal("1", interrupt).annotate(queries)
    assert [query.sample for query in store.take("another", "Ada")] == [query.sample for query in queries[1:]]


def test_answers_are_taken_back_to_any_depth(store, queries, at_terminal):
    annotator = at_terminal("1", "1", "u", "u", "u", "2", "2", "2")
    assert said(annotator.annotate(queries)) == [("label", "bright")] * 3
    assert annotator.lines.count("taken back: dark") == 2
    assert "there is nothing to take back" in annotator.lines


def test_what_is_put_off_comes_last(store, queries, at_terminal):
    annotator = at_terminal("l", "1", "2", "f")
    assert said(annotator.annotate(queries)) == [("flag", None), ("label", "dark"), ("label", "bright")]


def test_a_wrong_key_changes_nothing(store, queries, at_terminal):
    annotator = at_terminal("", "9", "brigth", "1")
    assert said(annotator.annotate(queries))[0] == ("label", "dark")
    assert len(store.events()) == 1
    assert sum("is none of the classes" in line for line in annotator.lines) == 3
    assert any('Did you mean "bright"?' in line for line in annotator.lines)


def test_the_guess_and_the_keys_are_told_when_they_are_asked_for(queries, at_terminal):
    annotator = at_terminal("g", "1", "g", "h")
    annotator.annotate(queries)
    assert "the model says nothing yet" in annotator.lines
    assert "the model says dark" in annotator.lines
    assert sum("1 dark   2 bright" in line for line in annotator.lines) == 2


def test_a_viewer_is_given_each_path(queries, at_terminal):
    shown = []
    annotator = at_terminal("1", "1", "1", show=shown.append)
    annotator.annotate(queries)
    assert shown == [query.path for query in queries]
    assert f"round 1 - 2 of 3 - {queries[1].path}" in annotator.lines


def test_it_waits_for_pictures_that_others_hold(store, queries, at_terminal, monkeypatch):
    held = store.take("page", "Ada", 2)
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            for query in held:
                store.record(Answer(query.sample, "label", "bright", "Ada"), session="page")

    monkeypatch.setattr("torchloops.annotation.annotators.sleep", sleep)
    annotator = at_terminal("1")
    assert said(annotator.annotate(queries)) == [("label", "bright"), ("label", "bright"), ("label", "dark")]
    assert sum("others have the rest" in line for line in annotator.lines) == 1


def test_two_terminals_never_show_the_same_picture(store, queries, at_terminal):
    inner = at_terminal("2", "2", name="Bob")
    seen = []

    def meanwhile():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("torchloops.annotation.annotators.sleep", lambda seconds: (_ for _ in ()).throw(EOFError))
            seen.extend(inner.annotate(queries))
        return "1"

    answers = at_terminal(meanwhile, name="Ada").annotate(queries)
    assert said(answers) == [("label", "dark"), ("label", "bright"), ("label", "bright")]
    assert said(seen)[0] == ("later", None)


def test_it_needs_a_store(queries):
    with pytest.raises(AnnotationError, match="Call attach"):
        TerminalAnnotator().annotate(queries)


# keys


def test_keys_of_classes():
    assert class_keys(["ant", "bee"]) == {"1": "ant", "2": "bee"}
    digits = [str(digit) for digit in range(10)]
    assert class_keys(digits) == dict(zip(digits, digits, strict=True)), "a class that is a key has its own"
    assert class_keys(["b", "x", "other"]) == {"b": "b", "x": "x", "1": "other"}
    assert class_keys(["7", "1", "x"]) == {"7": "7", "1": "1", "x": "x"}
    assert class_keys(["s", "ant"]) == {"1": "s", "2": "ant"}, "s skips"
    many = class_keys([f"class {number}" for number in range(60)])
    assert len(many) == 30
    assert not set(many) & set("sfulgh")
