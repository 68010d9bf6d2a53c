"""RichProgressBar: lines, bars, and how little a step pays."""

import cProfile
import io
import math
import pstats
import re

import pytest
import torch
from rich.console import Console

from torchloops.callbacks import Callback, RichProgressBar
from torchloops.errors import ConfigurationError
from torchloops.hooks import is_overridden
from torchloops.loops import Loop
from torchloops.testing import TinyClassifier, random_loader
from torchloops.trainer import Trainer


def make_bar(terminal, **options):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=160, legacy_windows=False, color_system=None)
    return RichProgressBar(console=console, **options)


def text_of(bar):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", bar.console.file.getvalue())


def lines_of(bar):
    return [re.sub(r"\d+\.\d+ s$", "# s", line) for line in text_of(bar).splitlines()]


def make_trainer(folder, bar, *callbacks, **options):
    torch.set_num_threads(1)
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[bar, *callbacks],
        logger=False,
        enable_checkpointing=False,
        **{"max_epochs": 2, **options},
    )


def test_one_line_an_epoch_without_a_terminal(tmp_path):
    torch.manual_seed(0)
    bar = make_bar(terminal=False)
    trainer = make_trainer(tmp_path, bar)
    trainer.fit(TinyClassifier(), random_loader(), random_loader(seed=1))
    number = r"\d+(\.\d+)?"
    lines = text_of(bar).splitlines()
    assert len(lines) == 2
    for epoch, line in enumerate(lines):
        values = f"train/loss {number}  val/loss {number}  val/accuracy {number}"
        assert re.fullmatch(rf"epoch {epoch}/1  {values}  {number} s", line)


def test_lines_of_validate_test_and_predict(tmp_path):
    bar = make_bar(terminal=False)
    trainer = make_trainer(tmp_path, bar)
    module = TinyClassifier()
    trainer.validate(module, random_loader())
    trainer.test(module, random_loader())
    trainer.predict(module, random_loader())
    validate, test, predict = lines_of(bar)
    assert validate.startswith("validate  val/loss")
    assert test.startswith("test  test/loss")
    assert predict == "predict  3 batches  # s"


def test_bars_on_a_terminal(tmp_path):
    bar = make_bar(terminal=True, refresh_rate=0.0)
    make_trainer(tmp_path, bar, max_epochs=3).fit(TinyClassifier(), random_loader(), random_loader(seed=1))
    text = text_of(bar)
    for expected in ("epochs", "0/3", "epoch 2/2", "3/3", "it/s", "train/loss", "validate", "sanity check"):
        assert expected in text
    assert bar._display is None


def test_no_bar_is_drawn_before_its_time(tmp_path):
    bar = make_bar(terminal=True, refresh_rate=3600.0)
    bar._next_drawing = math.inf
    make_trainer(tmp_path, bar, max_epochs=1).fit(TinyClassifier(), random_loader())
    assert "3/3" not in text_of(bar)
    assert "epoch 0/0  train/loss" in text_of(bar)


def test_an_unknown_number_of_batches_and_epochs(tmp_path):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from [(torch.zeros(32), 0)] * 6

    bar = make_bar(terminal=True, refresh_rate=0.0)
    loader = torch.utils.data.DataLoader(Endless(), batch_size=2)
    make_trainer(tmp_path, bar, max_epochs=-1, max_steps=4).fit(TinyClassifier(), loader)
    assert "3/?" in text_of(bar)
    assert "epoch 1  train/loss" in text_of(bar)


class TwoRounds(Loop):
    """Two inner fits and an evaluation after each."""

    def __init__(self, fit_loop):
        super().__init__()
        self.fit_loop = fit_loop

    @property
    def done(self):
        return self.progress.current == 2

    def advance(self):
        with self.trainer.isolated(f"round_{self.progress.current}"):
            self.fit_loop.run()
            self.trainer.evaluate("validate")


@pytest.mark.parametrize("terminal", [True, False])
def test_inner_runs_are_named(tmp_path, terminal):
    bar = make_bar(terminal, refresh_rate=0.0)
    trainer = make_trainer(tmp_path, bar)
    trainer.fit_loop = TwoRounds(trainer.fit_loop)
    trainer.fit(TinyClassifier(), random_loader(), random_loader(seed=1))
    lines = [line.strip() for line in lines_of(bar) if line.rstrip().endswith("# s")]
    names = [re.split(r"  (?=train|val/)", line)[0] for line in lines]
    rounds = [[f"round_{n}  epoch 0/1", f"round_{n}  epoch 1/1", f"round_{n}  validate"] for n in range(2)]
    assert names == [*rounds[0], *rounds[1]]
    assert bar._display is None


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_display_ends_with_an_error_and_the_bar_can_be_used_again(tmp_path, error):
    class Failing(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            raise error

    bar = make_bar(terminal=True)
    with pytest.raises(error):
        make_trainer(tmp_path, bar, Failing()).fit(TinyClassifier(), random_loader())
    assert bar._display is None
    assert not bar.console._live_stack if hasattr(bar.console, "_live_stack") else bar.console._live is None
    make_trainer(tmp_path, bar).fit(TinyClassifier(), random_loader())
    assert "epoch 1/1" in text_of(bar)


def test_a_display_of_somebody_else_leaves_the_lines(tmp_path, monkeypatch):
    from rich.errors import LiveError
    from rich.progress import Progress

    def refuse(self):
        raise LiveError("another display")

    bar = make_bar(terminal=True)
    monkeypatch.setattr(Progress, "start", refuse)
    make_trainer(tmp_path, bar).fit(TinyClassifier(), random_loader())
    assert [line.split("  ")[0] for line in lines_of(bar)] == ["epoch 0/1", "epoch 1/1"]


def test_other_processes_than_the_first_show_nothing_and_pay_nothing(trainer):
    bar = make_bar(terminal=True)
    trainer.is_global_zero = False
    bar.setup(trainer, None, "fit")
    assert not is_overridden(bar, "on_train_batch_end")
    assert not is_overridden(bar, "on_train_epoch_end")
    assert text_of(bar) == ""
    trainer.is_global_zero = True
    bar.setup(trainer, None, "fit")
    assert is_overridden(bar, "on_train_batch_end")
    bar.teardown(trainer, None, "fit")


def test_without_a_terminal_a_batch_has_no_hook(trainer):
    bar = make_bar(terminal=False)
    bar.setup(trainer, None, "fit")
    assert not is_overridden(bar, "on_train_batch_end")
    assert is_overridden(bar, "on_train_epoch_end")


def test_a_batch_that_draws_nothing_costs_two_calls(trainer):
    bar = make_bar(terminal=True)
    bar.setup(trainer, None, "fit")
    bar._next_drawing = math.inf
    profile = cProfile.Profile()
    profile.enable()
    for index in range(100):
        bar.on_train_batch_end(trainer, None, None, None, index)
    profile.disable()
    bar.teardown(trainer, None, "fit")
    assert pstats.Stats(profile).total_calls <= 201


def test_a_value_logged_per_step_and_per_epoch_shows_once(trainer):
    bar = make_bar(terminal=False)
    bar.setup(trainer, None, "fit")
    trainer.progress_bar_metrics = {
        "loss_step": torch.tensor(1.0),
        "loss_epoch": torch.tensor(2.0),
        "loss": torch.tensor(2.0),
    }
    bar.on_train_epoch_end(trainer, None)
    assert "loss_epoch 2  " in text_of(bar)
    assert "loss_step" not in text_of(bar)
    assert text_of(bar).count("loss") == 1


def test_a_negative_refresh_rate():
    with pytest.raises(ConfigurationError, match="refresh_rate"):
        RichProgressBar(refresh_rate=-1)
