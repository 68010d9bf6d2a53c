"""Names that file systems allow, in plots, pages, tables and on the screen."""

import json
import os
import warnings

import numpy
import pandas
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

from torchloops.report import (
    RunFolder,
    comparison_table,
    guidance_table,
    plot_accuracy_vs_labels,
    plot_confusion_matrix,
    plot_curves,
    plot_queried_samples,
    plot_scores_by_fold,
    write_active_learning_report,
    write_page,
)
from torchloops.report.text import _family_of, as_label, draw_literally

NOT_UTF8 = os.fsdecode(b"caf\xe9")
NAMES = {
    "one dollar": "US$",
    "two dollars": "$5 to $9",
    "a broken formula": "$\\frac$",
    "another one": "a$_$b",
    "emoji": "🐜 ant",
    "another script": "蚂蚁",
    "control characters": "\x01\x02",
    "terminal codes": "\x1b[31mred",
    "markup of rich": "[/x]",
    "not UTF-8": NOT_UTF8,
    "half a pair": "\ud800",
    "long": "x" * 250,
    "lines": "a\nb",
    "empty": "",
    "blank": " ",
    "hidden": "_hidden",
}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved while the test ran."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (save(self, *a, **k), figures.append(self))[0])
    return figures


@pytest.fixture(autouse=True)
def installed_fonts(monkeypatch):
    """DejaVu alone, whatever this machine has."""
    installed = [font for font in font_manager.fontManager.ttflist if font.name.startswith("DejaVu")]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", installed)
    _family_of.cache_clear()
    yield
    _family_of.cache_clear()


@pytest.fixture
def a_font_with(tmp_path):
    """Install a font that has one character."""

    def install(character, family):
        pen = TTGlyphPen(None)
        pen.moveTo((0, 0))
        for corner in ((0, 700), (600, 700), (600, 0)):
            pen.lineTo(corner)
        pen.closePath()
        builder = FontBuilder(1000, isTTF=True)
        builder.setupGlyphOrder([".notdef", "one"])
        builder.setupCharacterMap({ord(character): "one"})
        builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "one": pen.glyph()})
        builder.setupHorizontalMetrics({".notdef": (600, 0), "one": (600, 0)})
        builder.setupHorizontalHeader(ascent=800, descent=-200)
        builder.setupNameTable({"familyName": family, "styleName": "Regular"})
        builder.setupOS2(sTypoAscender=800, usWeightClass=400)
        builder.setupPost()
        builder.save(tmp_path / "one.ttf")
        font_manager.fontManager.addfont(tmp_path / "one.ttf")
        _family_of.cache_clear()

    return install


def rounds_of(first, second="random"):
    return pandas.DataFrame(
        {
            "strategy": [first, first, second, second],
            "seed": 0,
            "round": [0, 1, 0, 1],
            "n_labelled": [10, 20, 10, 20],
            "test/accuracy": [0.5, 0.6, 0.5, 0.7],
        }
    )


def confusion(names, path):
    table = pandas.DataFrame({"target": range(len(names)), "prediction": 0})
    return plot_confusion_matrix(table, names, path)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_any_name_of_a_class_or_strategy_is_drawn(tmp_path, name):
    queries = pandas.DataFrame({"round": [0], "rank": [0], "sample_id": [0], "label": [name]})
    folds = pandas.DataFrame({"fold": [0, 1], name: [0.5, 0.6]})
    summary = pandas.DataFrame({"metric": [name], "mean": [0.55], "nb_low": [0.4], "nb_high": [0.7]})
    pictures = [
        confusion([name, name, "c"], tmp_path / "confusion.png"),
        plot_accuracy_vs_labels(rounds_of(name), tmp_path / "accuracy.png", title=name),
        plot_queried_samples(queries, lambda _: numpy.zeros((4, 4)), tmp_path / "queried.png", title=name),
        plot_scores_by_fold(folds, summary, tmp_path / "f.png", metrics={name: name}, reference=(name, 0.5)),
        plot_curves(
            rounds_of(name), tmp_path / "c.png", x="round", y="test/accuracy", by="strategy", title=name,
            x_label=name, y_label=name,
        ),
    ]  # fmt: skip
    for picture in pictures:
        with Image.open(picture) as image:
            image.load()


def test_dollars_are_drawn_as_dollars(tmp_path, drawn):
    confusion(["$5 to $9", "US$"], tmp_path / "a.png")
    ticks = drawn[0].axes[0].get_xticklabels()
    assert [tick.get_text() for tick in ticks] == ["$5 to $9", "US$"]
    assert not any(tick.get_parse_math() for tick in ticks)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("蚂", "\\u8682"),
        ("🐜 ant", "\\U0001f41c ant"),
        ("\x01a\tb\nc", "\\x01a\\tb\\nc"),
        (NOT_UTF8, "caf\\xe9"),
        ("\ud800", "\\ud800"),
        ("", '""'),
        ("  ", '"  "'),
        ("Käfer – жук", "Käfer – жук"),
        ("a" * 20 + "b" * 20, "a" * 15 + "…" + "b" * 14),
    ],
)
def test_what_no_font_has_is_told_apart_by_its_code(name, expected):
    assert as_label(name) == expected


def test_a_name_is_drawn_with_an_installed_font_that_has_it(tmp_path, drawn, a_font_with):
    assert as_label("蚂") == "\\u8682"
    a_font_with("蚂", "One Ant")
    assert as_label("蚂蚁") == "蚂\\u8681"
    confusion(["蚂", "bee"], tmp_path / "a.png")
    ticks = drawn[0].axes[0].get_xticklabels()
    assert [tick.get_text() for tick in ticks] == ["蚂", "bee"]
    assert [tick.get_fontfamily()[-1] for tick in ticks] == ["One Ant", "sans-serif"]


def test_titles_keep_their_lines_and_lose_what_cannot_be_drawn():
    figure = Figure()
    title = figure.suptitle("Scores of 蚂\n(one seed)")
    draw_literally(figure)
    assert title.get_text() == "Scores of \\u8682\n(one seed)"


@pytest.mark.parametrize("name", ["_hidden", "", " "])
def test_no_strategy_is_missing_in_the_legend(tmp_path, drawn, name):
    plot_accuracy_vs_labels(rounds_of(name), tmp_path / "a.png")
    shown = [text.get_text().strip() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert shown == [name if name == "_hidden" else f'"{name}"', "random"]


@pytest.mark.parametrize("name", ["a", "x" * 250])
def test_long_names_leave_room_for_the_matrix(tmp_path, drawn, name):
    confusion([name, "b"], tmp_path / "a.png")
    box = drawn[0].axes[0].get_position()
    assert box.width * drawn[0].get_figwidth() > 1
    assert box.height * drawn[0].get_figheight() > 1


def test_pages_and_tables_hold_names_that_are_not_utf8(tmp_path, capsys):
    run = RunFolder.create(tmp_path, "study")
    queries = pandas.DataFrame(
        {"strategy": [NOT_UTF8], "seed": 0, "round": 0, "rank": 0, "sample_id": 0, "label": 0, "score": 0.5}
    )
    with run:
        write_active_learning_report(
            run, rounds_of(NOT_UTF8), queries, get_image=lambda _: numpy.zeros((4, 4)), class_names=[NOT_UTF8]
        )
        run.say(comparison_table(rounds_of(NOT_UTF8, "[/x]")))
        run.say(f"runs in {NOT_UTF8}")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(f"no {NOT_UTF8}", UserWarning, stacklevel=1)
    assert "caf\\xe9" in (run.path / "report.html").read_text(encoding="utf-8")
    assert pandas.read_csv(run.path / "rounds.csv")["strategy"][0] == "caf\\xe9"
    assert NOT_UTF8 in json.loads((run.path / "summary.json").read_text(encoding="utf-8"))
    printed = capsys.readouterr().out
    assert "[/x]" in printed
    assert "runs in caf\\xe9" in printed
    assert "Warning: no caf\\xe9" in printed
    assert "caf\\" in (run.path / "log.txt").read_text(encoding="utf-8")


def test_a_table_of_guided_strategies_prints_any_name(tmp_path, capsys):
    scores = {"mean": 0.5, "std": None, "n": 1}
    summary = {NOT_UTF8: dict.fromkeys(("test/accuracy", "highest test/accuracy", "milliseconds a step"), scores)}
    RunFolder.create(tmp_path, "study").say(guidance_table(summary))
    assert "caf\\xe9" in capsys.readouterr().out


def test_a_page_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = write_page(tmp_path / "report.html", title="first")

    def fail(*_):
        raise OSError("full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="full"):
        write_page(path, title="second")
    assert "first" in path.read_text()
