"""Arguments, attributes and entry points that code written for Lightning's Trainer uses."""

import inspect

import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchloops import Callback, DataModule, LoopModule, ModelSummary, PyTorchProfiler, SimpleProfiler, Trainer
from torchloops.errors import ConfigurationError
from torchloops.trainer.argument_names import NOT_HERE
from torchloops.trainer.tables import print_values

LOADER = DataLoader(TensorDataset(torch.arange(8.0).reshape(8, 1)), batch_size=2)


class Net(LoopModule):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(1, 3), nn.Dropout()), nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        return self.head(self.body(batch[0])).mean()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val/loss", batch[0].mean())

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        return batch[0]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def quiet(tmp_path):
    def make(**arguments):
        options = {"accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_checkpointing": False}
        return Trainer(**{**options, "enable_progress_bar": False, "default_root_dir": tmp_path, **arguments})

    return make


def test_every_argument_of_lightning_is_here_or_is_explained():
    theirs = inspect.signature(pl.Trainer).parameters
    ours = inspect.signature(Trainer).parameters
    assert set(theirs) - set(ours) <= set(NOT_HERE)
    assert not set(NOT_HERE) & set(ours)
    for name in NOT_HERE:
        with pytest.raises(ConfigurationError, match=rf"Trainer\({name}=...\).*Instead, "):
            Trainer(**{name: 1})


def test_an_unknown_argument_names_the_one_that_was_meant():
    with pytest.raises(ConfigurationError, match='Did you mean "max_epochs"'):
        Trainer(max_epoch=3)


def test_none_is_the_default(quiet, tmp_path):
    names = [name for name in inspect.signature(Trainer).parameters if name != "check_val_every_n_epoch"]
    trainer = Trainer(**dict.fromkeys(names))
    defaults = {name: one.default for name, one in inspect.signature(Trainer).parameters.items()}
    assert trainer.arguments == defaults


@pytest.mark.parametrize("name", ["fit", "validate", "test", "predict", "save_checkpoint"])
def test_entry_points_take_what_lightnings_take_in_the_same_order(name):
    theirs = list(inspect.signature(getattr(pl.Trainer, name)).parameters)
    assert list(inspect.signature(getattr(Trainer, name)).parameters)[: len(theirs)] == theirs


def test_every_public_name_of_lightnings_trainer_is_there(quiet):
    trainer = quiet()
    trainer.fit(Net(), LOADER, LOADER)
    missing = [name for name in dir(pl.Trainer) if not name.startswith("_") and not hasattr(trainer, name)]
    assert missing == []


def test_what_the_names_say(quiet, capsys):
    trainer = quiet(limit_train_batches=3, limit_val_batches=0.5, num_sanity_val_steps=1)
    assert not trainer.state.finished
    trainer.fit(Net(), LOADER, LOADER)
    assert (trainer.limit_train_batches, trainer.limit_val_batches, trainer.limit_test_batches) == (3, 0.5, None)
    assert (trainer.num_training_batches, trainer.num_val_batches, trainer.num_sanity_val_batches) == (3, [2], [1])
    assert trainer.enable_validation
    assert trainer.state.finished
    assert not trainer.interrupted
    assert (trainer.ckpt_path, trainer.num_nodes, trainer.node_rank, trainer.device_ids) == (None, 1, 0, [0])
    assert trainer.distributed_sampler_kwargs is None
    assert trainer.scaler is None
    trainer.print("once")
    assert capsys.readouterr().out == "once\n"
    with trainer.init_module():
        assert nn.Linear(1, 1).weight.device.type == "cpu"


def test_a_fit_that_ctrl_c_ends_is_interrupted(quiet):
    class Interrupt(Callback):
        def on_train_batch_end(self, *args):
            raise KeyboardInterrupt

    class Data(DataModule):
        seen = None

        def train_dataloader(self):
            return LOADER

        def on_exception(self, exception):
            self.seen = exception

    trainer, data = quiet(callbacks=[Interrupt()]), Data()
    with pytest.raises(KeyboardInterrupt) as error:
        trainer.fit(Net(), datamodule=data)
    assert trainer.interrupted
    assert not trainer.state.finished
    assert data.seen is error.value


def test_values_are_printed_as_a_table_unless_verbose_is_false(quiet, capsys):
    trainer = quiet()
    values = trainer.test(Net(), [LOADER, LOADER])
    printed = capsys.readouterr().out
    assert "test" in printed
    assert printed.count("3.5") == 2
    assert "data loader 1" in printed
    assert values == trainer.test(Net(), [LOADER, LOADER], verbose=False)
    trainer.validate(Net(), LOADER, verbose=False)
    assert capsys.readouterr().out == ""


def test_a_table_of_values_names_each_once():
    console = Console(width=100, record=True)
    print_values(
        "test", [{"loss/dataloader_idx_0": 1.25, "all": 3.0}, {"loss/dataloader_idx_1": 2.5, "all": 3.0}], console
    )
    rows = [line.replace("│", " ").split() for line in console.export_text().splitlines() if "│" in line]
    assert rows == [["loss", "1.25", "2.5"], ["all", "3", "3"]]


def test_predictions_are_returned_or_not(quiet):
    trainer = quiet()
    assert len(trainer.predict(Net(), LOADER)) == 4
    assert trainer.predict(Net(), LOADER, return_predictions=False) is None
    assert len(trainer.predict(Net(), LOADER)) == 4


def test_storage_elsewhere_is_refused(quiet, tmp_path):
    trainer = quiet()
    trainer.fit(Net(), LOADER)
    with pytest.raises(ConfigurationError, match="local disk"):
        trainer.save_checkpoint(tmp_path / "x.ckpt", storage_options={"key": 1})


def test_a_model_summary(quiet):
    net = Net()
    net.head.requires_grad_(False)
    net.head.eval()
    console = Console(width=100, record=True)
    quiet(callbacks=[ModelSummary(max_depth=-1, console=console)]).fit(net, LOADER)
    text = console.export_text()
    rows = [line.replace("│", " ").split() for line in text.splitlines() if line.startswith("│")]
    assert rows == [
        ["body", "Sequential", "6", "train"],
        ["body.0", "Linear", "6", "train"],
        ["body.1", "Dropout", "0", "train"],
        ["head", "Linear", "4", "eval"],
    ]
    assert "6 trainable parameters, 4 that are not" in text


def test_a_model_summary_where_it_is_asked_for(quiet, capsys):
    quiet().fit(Net(), LOADER)
    assert "parameters" not in capsys.readouterr().out
    quiet(enable_model_summary=True).fit(Net(), LOADER)
    assert "10 trainable parameters" in capsys.readouterr().out


def test_the_simple_profiler_counts_what_runs(quiet, capsys):
    profiler = SimpleProfiler()
    trainer = quiet(profiler=profiler, max_epochs=2, num_sanity_val_steps=0, callbacks=[ModelSummary(0)])
    trainer.fit(Net(), LOADER, LOADER)
    calls = {name: times.calls for name, times in profiler.times.items()}
    assert calls["training_step"] == calls["optimizer_step"] == calls["backward"] == 8
    assert calls["validation_step"] == 8
    assert calls["next_batch"] == 16
    assert calls["[ModelSummary].on_fit_start"] == 1
    assert "training_step" in capsys.readouterr().out


def test_torchs_profiler(quiet, capsys):
    quiet(profiler=PyTorchProfiler(row_limit=100), limit_train_batches=1).fit(Net(), LOADER)
    printed = capsys.readouterr().out
    assert "training_step" in printed
    assert "aten::linear" in printed


def test_a_profiler_of_lightning(quiet):
    from pytorch_lightning.profilers import SimpleProfiler as Theirs

    profiler = Theirs()
    quiet(profiler=profiler).fit(Net(), LOADER)
    assert len(profiler.recorded_durations["training_step"]) == 4


def test_a_profiler_that_is_none_is_refused(quiet):
    with pytest.raises(ConfigurationError, match='Did you mean "simple"'):
        quiet(profiler="simpel")
    with pytest.raises(ConfigurationError, match="profile"):
        quiet(profiler=3)


def test_settings_of_torch_hold_for_the_fit_alone(quiet):
    seen = []

    class Look(Callback):
        def on_train_start(self, trainer, module):
            seen.append((torch.is_anomaly_enabled(), torch.backends.cudnn.benchmark))

    quiet(detect_anomaly=True, benchmark=True, callbacks=[Look()]).fit(Net(), LOADER)
    assert seen == [(True, True)]
    assert not torch.is_anomaly_enabled()
    assert not torch.backends.cudnn.benchmark


def test_plugins_reach_fabric(quiet):
    from lightning_fabric.plugins.precision import DoublePrecision

    assert quiet(plugins=[DoublePrecision()]).precision == "64-true"
