"""When a fit saves and ends: signals that come late, several processes, safe points outside of a fit."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch

from torchloops.callbacks import Callback
from torchloops.testing import TinyClassifier, random_loader
from torchloops.trainer.keeper import Keeper, SavingInterval


@pytest.fixture
def fit(make_trainer, tmp_path):
    def run(ckpt_path=None, **arguments):
        trainer = make_trainer(
            **{"max_epochs": 1, "enable_checkpointing": True, "default_root_dir": tmp_path, **arguments}
        )
        trainer.fit(TinyClassifier(), random_loader(32, 8), ckpt_path=ckpt_path)
        return trainer

    return run


class SignalAtTheEnd(Callback):
    def on_train_end(self, trainer, module):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_after_the_last_safe_point_is_heeded(fit, tmp_path, caplog):
    with pytest.raises(SystemExit) as ended:
        fit(callbacks=SignalAtTheEnd())
    assert ended.value.code == 143
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    assert "SIGTERM: the run can go on from" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_handler_of_the_program_decides_after_the_save(fit, tmp_path, number):
    saved = []

    def note(number, frame):
        saved.append((tmp_path / "checkpoints" / "last.ckpt").is_file())

    class Signal(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if batch_idx in (1, 2):
                os.kill(os.getpid(), number)

    before = signal.signal(number, note)
    try:
        trainer = fit(callbacks=Signal())
        assert signal.getsignal(number) is note
    finally:
        signal.signal(number, before)
    assert saved == [True, True]
    assert trainer.global_step == 4


def test_an_ignored_signal_stays_ignored(fit, tmp_path):
    class Signal(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert fit(callbacks=Signal()).global_step == 4
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_that_could_not_save_does_not_promise_that_it_can_go_on(fit, caplog, monkeypatch):
    monkeypatch.setattr("torchloops.trainer.keeper.write_checkpoint", _full_disk)
    with pytest.warns(UserWarning, match="There is none yet"), pytest.raises(SystemExit):
        fit(callbacks=SignalAtTheEnd())
    assert "SIGTERM: there is no checkpoint to go on from" in caplog.text


def _full_disk(*args, **kwargs):
    raise OSError("no space")


def test_a_safe_point_outside_of_a_fit_writes_nothing(fit, tmp_path):
    trainer = fit()
    file = tmp_path / "checkpoints" / "last.ckpt"
    before = file.stat().st_mtime_ns
    trainer.keeper.ask()
    trainer.safe_point()
    assert file.stat().st_mtime_ns == before


def test_the_last_file_stays_when_it_is_named_by_another_path(fit, tmp_path, monkeypatch):
    fit()
    monkeypatch.chdir(tmp_path)
    fit(ckpt_path="checkpoints/../checkpoints/last.ckpt", max_epochs=2, checkpoint_every="1 hour")
    assert not (tmp_path / "checkpoints" / "earlier.ckpt").exists()


class OtherProcess:
    """Stands for an engine whose other process wants and heeds what it is told."""

    device, is_global_zero = "cpu", True

    def __init__(self, wants=0, signal_taken=0):
        self.others, self.asked = torch.tensor([wants, signal_taken]), 0

    def all_reduce(self, mine, how):
        self.asked += 1
        return torch.maximum(mine, self.others)


def keeper_of(engine, every):
    run = SimpleNamespace(steps=0)
    trainer = SimpleNamespace(world_size=2, engine=engine, run=run, is_global_zero=True)
    return Keeper(trainer, SavingInterval.parse(every), True)


def test_processes_that_save_by_count_agree_on_a_signal_too():
    engine = OtherProcess(signal_taken=signal.SIGTERM, wants=1)
    keeper = keeper_of(engine, "1 step")
    keeper._count_steps()
    keeper.trainer.run.steps = 1
    assert keeper._is_due("batch")
    assert (engine.asked, keeper._heeded) == (1, signal.SIGTERM)


def test_a_signal_that_comes_while_processes_agree_is_heeded_by_all_at_the_next_agreement():
    engine = OtherProcess()
    keeper = keeper_of(engine, None)
    reduce = engine.all_reduce

    def interrupted(mine, how):
        keeper._take_signal(signal.SIGTERM)
        engine.all_reduce = reduce
        return reduce(mine, how)

    engine.all_reduce = interrupted
    keeper._next_time = float("inf")
    assert not keeper._is_due("epoch")
    assert keeper._heeded == 0
    assert keeper._is_due("epoch")
    assert keeper._heeded == signal.SIGTERM
