"""Plots and page: what is drawn is what the data says."""

import numpy
import pandas
import pytest
from matplotlib.figure import Figure
from PIL import Image

from torchloops.report import plot_accuracy_vs_labels, plot_queried_samples, write_page


@pytest.fixture
def rounds() -> pandas.DataFrame:
    rows = [
        {
            "strategy": strategy,
            "seed": seed,
            "n_labelled": labels,
            "test/accuracy": 0.5 + labels / 100 + seed / 50,
        }
        for strategy in ("bald", "random")
        for seed in (0, 1)
        for labels in (10, 20, 30)
    ]
    return pandas.DataFrame(rows)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved while the test ran."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))[1])
    return figures


def test_accuracy_is_drawn_in_percent_as_the_mean_over_seeds(tmp_path, rounds, drawn):
    path = plot_accuracy_vs_labels(rounds, tmp_path / "plots" / "accuracy.png")
    axes = drawn[0].axes[0]
    assert [line.get_label() for line in axes.lines] == ["bald", "random"]
    assert list(axes.lines[0].get_xdata()) == [10, 20, 30]
    assert list(axes.lines[0].get_ydata()) == pytest.approx([61, 71, 81])
    assert len(axes.collections) == 2
    assert "(%)" in axes.get_ylabel()
    assert "Test accuracy" in axes.get_title()
    with Image.open(path) as image:
        assert image.size == (1050, 690)


def test_one_seed_has_no_band(tmp_path, rounds, drawn):
    plot_accuracy_vs_labels(rounds[rounds["seed"] == 0], tmp_path / "accuracy.png")
    assert not drawn[0].axes[0].collections


def test_each_query_is_drawn_once_a_row_a_round(tmp_path, drawn):
    queries = pandas.DataFrame(
        {"round": [0, 0, 1, 1], "rank": [1, 0, 0, 1], "sample_id": [7, 3, 5, 9], "label": [1, 2, 3, 4]}
    )
    asked = []

    def get_image(sample_id):
        asked.append(sample_id)
        return numpy.zeros((8, 8))

    plot_queried_samples(queries, get_image, tmp_path / "queried.png")
    assert asked == [3, 7, 5, 9]
    texts = {text.get_text(): text.get_position() for text in drawn[0].axes[0].texts}
    assert texts["2"][0] == texts["3"][0] < texts["1"][0] == texts["4"][0]
    assert texts["2"][1] == texts["1"][1] < texts["3"][1] == texts["4"][1]
    assert {"round 0", "round 1"} < set(texts)


def test_the_page_is_one_file_and_escapes_what_it_is_given(tmp_path, rounds):
    picture = plot_accuracy_vs_labels(rounds, tmp_path / "accuracy.png")
    path = write_page(
        tmp_path / "report.html",
        title="a <b>",
        pictures={"Accuracy": picture, "Missing": tmp_path / "no.png"},
        tables={"Rounds": pandas.DataFrame({"x<y": [1.23456]})},
        texts={"Command": "run --name '<i>'"},
    )
    page = path.read_text()
    assert "a &lt;b&gt;" in page
    assert "x&lt;y" in page
    assert "1.235" in page
    assert "&lt;i&gt;" in page
    assert page.count("data:image/png;base64,") == 1
    assert "http" not in page
