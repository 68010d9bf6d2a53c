"""Fits the same LightningModule with pytorch-lightning's Trainer and with ours."""

import warnings

import pytest
import torch

pl = pytest.importorskip("pytorch_lightning")

from torchloops import Trainer, seed_everything  # noqa: E402

QUIET = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    seed_everything(11)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fit_theirs(tmp_path):
    """``fit_theirs(module, *data, **options)`` with Lightning's Trainer; returns it."""

    def fit(module, *args, fit_options=None, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs warn about workers, loggers and their own deprecations
            options = {**QUIET, "enable_checkpointing": False, "enable_model_summary": False, **options}
            trainer = pl.Trainer(default_root_dir=str(tmp_path / "theirs"), **options)
            trainer.fit(module, *args, **(fit_options or {}))
        return trainer

    return fit


@pytest.fixture
def make_ours(tmp_path):
    """``make_ours(**options)``: our Trainer without output."""

    def make(**options):
        options = {**QUIET, "enable_checkpointing": False, "default_root_dir": tmp_path / "ours", **options}
        return Trainer(**options)

    return make


@pytest.fixture
def fit_ours(make_ours):
    """``fit_ours(module, *data, **options)`` with our Trainer; returns it."""

    def fit(module, *args, fit_options=None, **options):
        trainer = make_ours(**options)
        trainer.fit(module, *args, **(fit_options or {}))
        return trainer

    return fit
