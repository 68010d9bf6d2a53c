"""Many small files as one table."""

from torchloops.report import join_metrics


def test_runs_are_joined_in_the_order_of_their_numbers(tmp_path):
    for name in ("bald_0/round_10", "bald_0/round_2", "bald_10/round_0"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "metrics.csv").write_text("epoch,train/loss\n0,1.5\n1,0.5\n")
    table = join_metrics(tmp_path)
    assert list(table["run"][::2]) == ["bald_0/round_2", "bald_0/round_10", "bald_10/round_0"]
    assert list(table.columns) == ["run", "epoch", "train/loss"]
    assert len(table) == 6


def test_no_files_make_an_empty_table(tmp_path):
    assert join_metrics(tmp_path).empty


def test_the_joined_table_is_not_joined_again(tmp_path):
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "fold_0" / "metrics.csv").write_text("epoch,train/loss\n0,1.5\n")
    table = join_metrics(tmp_path)
    table.to_csv(tmp_path / "metrics.csv", index=False)
    assert join_metrics(tmp_path).equals(table)
