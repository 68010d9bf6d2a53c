"""Hyper-parameters in checkpoints: what comes back is what the module was built with, or a message names it."""

import argparse
import datetime
import enum
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import nn

from torchloops import LoopModule, Trainer
from torchloops.errors import CheckpointError, ConfigurationError
from torchloops.named import Named
from torchloops.trainer.checkpoint_file import write_checkpoint

pl = pytest.importorskip("pytorch_lightning")

OF_LIGHTNING = pytest.mark.filterwarnings("ignore:Attribute 'option' is an instance of")
KINDS = pytest.mark.parametrize("base", [LoopModule, pl.LightningModule])
LOADER = torch.utils.data.DataLoader(torch.zeros(2, 1))


class Pool(enum.Enum):
    MEAN = 1
    MAX = 2


class Level(enum.IntEnum):
    HIGH = 3


class Size(NamedTuple):
    height: int
    width: int


@dataclass
class Config:
    lr: float = 0.1
    layers: tuple = (1, 2)


class Act(nn.Module):
    pass


def own_function(x):
    return x


def steps(cls):
    """Add what a fit needs to a class."""

    def setup_weight(self, stage):
        self.seen = stage

    cls.training_step = lambda self, batch, batch_idx: ((self.w - 1) ** 2).sum()
    cls.configure_optimizers = lambda self: torch.optim.SGD(self.parameters(), lr=0.1)
    cls.setup = setup_weight
    return cls


def with_option(base, default=None):
    class Net(base):
        def __init__(self, option=default, other=0):
            super().__init__()
            self.save_hyperparameters()
            self.w = nn.Parameter(torch.zeros(1))
            self.option = option

    return steps(Net)


def saved(module, tmp_path):
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", enable_progress_bar=False, logger=False, default_root_dir=tmp_path
    )
    trainer.fit(module, LOADER)
    return tmp_path / "checkpoints" / "last.ckpt"


VALUES = {
    "a class of torch": nn.Tanh,
    "a class of one's own": Act,
    "an optimizer": torch.optim.Adam,
    "a scheduler": torch.optim.lr_scheduler.StepLR,
    "a function of torch": torch.exp,
    "a function in functional": nn.functional.gelu,
    "a python function in functional": nn.functional.softmax,
    "an initialisation": nn.init.xavier_uniform_,
    "a member": Pool.MAX,
    "a member that is a number": Level.HIGH,
    "a range": range(2, 9, 3),
    "a slice": slice(1, None, 2),
    "a complex number": 1 + 2j,
    "a date": datetime.date(2024, 2, 29),
    "a time": datetime.datetime(2024, 2, 29, 12, 30, 0, 5),
    "a duration": datetime.timedelta(days=1, microseconds=3),
    "a named tuple": Size(2, 3),
    "classes in a list": [nn.ReLU, {"deep": (nn.Tanh, 1)}],
    "an ordered dict": OrderedDict(b=nn.ReLU, a=2),
    "a type of numbers": torch.float16,
    "nothing": None,
}


@KINDS
@pytest.mark.parametrize("name", VALUES)
def test_it_comes_back(tmp_path, base, name):
    value, kind = VALUES[name], with_option(base, default="the default")
    again = kind.load_from_checkpoint(saved(kind(option=value, other=3), tmp_path))
    assert again.option == value
    assert type(again.option) is type(value)
    assert again.hparams.other == 3


@KINDS
def test_a_partial_comes_back(tmp_path, base):
    kind = with_option(base)
    option = partial(torch.optim.SGD, lr=0.5, momentum=0.9)
    again = kind.load_from_checkpoint(saved(kind(option), tmp_path)).option
    assert (again.func, again.args, again.keywords) == (option.func, option.args, option.keywords)


@OF_LIGHTNING
@KINDS
@pytest.mark.parametrize(
    ("value", "says"),
    [
        (nn.Linear(1, 1), r"option=a Linear, which a checkpoint cannot hold"),
        (lambda x: x, r"option=.*<lambda>, which a checkpoint cannot hold"),
        ([nn.ReLU, [object()]], r"option=a list, which a checkpoint cannot hold"),
        (own_function, r"option=own_function, .*:own_function', which a safe load does not look up.*add_safe_globals"),
        (Config(0.5), r"option=a Config, .*:Config', which a safe load does not look up.*add_safe_globals"),
        (subprocess.run, r"option=run, saved as 'subprocess:run', which a safe load does not look up"),
        (partial(subprocess.run, "ls"), r"option.*run.*does not look up"),
    ],
)
def test_what_cannot_come_back_is_named_and_may_be_given(tmp_path, base, value, says):
    kind = with_option(base)
    path = saved(kind(option=value, other=3), tmp_path)
    with pytest.raises(CheckpointError, match=rf"Net was built with {says}"):
        kind.load_from_checkpoint(path)
    assert kind.load_from_checkpoint(path, option=value).option is value


@KINDS
def test_what_the_user_trusts_comes_back(tmp_path, base):
    kind = with_option(base)
    with torch.serialization.safe_globals([Config, own_function]):
        assert kind.load_from_checkpoint(saved(kind(Config(0.5)), tmp_path / "a")).option == Config(0.5)
        assert kind.load_from_checkpoint(saved(kind(own_function), tmp_path / "b")).option is own_function


@OF_LIGHTNING
@KINDS
def test_a_default_without_a_name_is_the_default_again(tmp_path, base):
    default = nn.Linear(1, 1)
    kind = with_option(base, default=default)
    assert kind.load_from_checkpoint(saved(kind(), tmp_path)).option is default


def test_a_name_in_an_edited_file_runs_nothing(tmp_path):
    kind = with_option(LoopModule)
    path = saved(kind(option=1), tmp_path)
    checkpoint = torch.load(path, weights_only=True)
    target = tmp_path / "made"
    for name in ("os:mkdir", "posix:mkdir", "torch:os.mkdir", "torch.serialization:os.mkdir", "pathlib:os.mkdir"):
        for call in (None, ((str(target),), {})):
            checkpoint["hyper_parameters"]["option"] = Named(name, call, "a value")
            write_checkpoint(checkpoint, tmp_path / "edited.ckpt")
            with pytest.raises(CheckpointError, match="option=a value"):
                kind.load_from_checkpoint(tmp_path / "edited.ckpt")
    assert not target.exists()


def test_a_process_without_torchloops_refuses_what_it_cannot_look_up(tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\nimport pytorch_lightning as pl\nfrom torch import nn\n"
        "class Net(pl.LightningModule):\n"
        "    def __init__(self, act=nn.ReLU):\n        super().__init__(); self.save_hyperparameters()\n"
        "        self.act = act(); self.w = nn.Parameter(torch.zeros(1))\n"
        "    def training_step(self, batch, batch_idx):\n        return self.act(self.w - batch).sum()\n"
        "    def configure_optimizers(self):\n        return torch.optim.SGD(self.parameters(), 0.1)\n"
    )
    train = (
        "import torch, net, torchloops\n"
        "torchloops.Trainer(max_epochs=1, logger=False, enable_progress_bar=False, default_root_dir='run')"
        ".fit(net.Net(torch.nn.Tanh), torch.utils.data.DataLoader(torch.zeros(2, 1)))"
    )
    load = "import net; print(net.Net.load_from_checkpoint('run/checkpoints/last.ckpt').act)"

    def python(code):
        return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert python(train).returncode == 0
    assert "torchloops.named" in python(load).stderr
    assert python(f"import torchloops.named\n{load}").stdout == "Tanh()\n"


# idioms of save_hyperparameters


@KINDS
def test_a_base_class_saves_too(tmp_path, base):
    class Parent(base):
        def __init__(self, lr, depth=1):
            super().__init__()
            self.save_hyperparameters()
            self.w = nn.Parameter(torch.zeros(1))

    class Child(Parent):
        def __init__(self, width=3):
            super().__init__(lr=width / 10)

    module = steps(Child)(width=4)
    assert dict(module.hparams) == {"lr": 0.4, "depth": 1, "width": 4}
    assert dict(Child.load_from_checkpoint(saved(module, tmp_path)).hparams) == {"lr": 0.4, "depth": 1, "width": 4}


@KINDS
@pytest.mark.parametrize("given", [{"lr": 0.3, "act": nn.Tanh}, argparse.Namespace(lr=0.3, act=nn.Tanh)])
def test_one_argument_may_hold_them_all(tmp_path, base, given):
    class Net(base):
        def __init__(self, config, other=1):
            super().__init__()
            self.save_hyperparameters(config)
            self.w = nn.Parameter(torch.zeros(1))
            self.config = config

    module = steps(Net)(given)
    assert (module.hparams.lr, module.hparams["act"]) == (0.3, nn.Tanh)
    again = Net.load_from_checkpoint(saved(module, tmp_path))
    assert (again.hparams.lr, again.config["act"]) == (0.3, nn.Tanh)


@KINDS
def test_several_calls_add_up_and_what_is_ignored_stays_out(base):
    class Net(base):
        def __init__(self, a=1, b=2, c=3):
            super().__init__()
            self.save_hyperparameters("a", "c", logger=False)
            self.save_hyperparameters("b")
            assert dict(self.hparams) == {"a": 1, "b": 5, "c": 3}
            self.save_hyperparameters(ignore=["c"])

    module = Net(b=5)
    assert dict(module.hparams) == {"a": 1, "b": 5}
    module.hparams.b = 7
    assert dict(module.hparams_initial) == {"a": 1, "b": 5}


def test_what_holds_no_names_is_refused():
    class Net(LoopModule):
        def __init__(self, config):
            super().__init__()
            self.save_hyperparameters(config)

    with pytest.raises(ConfigurationError, match="one dict or namespace"):
        Net(3)
