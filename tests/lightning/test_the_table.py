"""The tables of docs/coming-from-lightning.md name all that pytorch-lightning has, and say of it what is so."""

import inspect
import re
from pathlib import Path

import pytest

import torchloops
from torchloops import Callback, DataModule, LoopModule, Trainer
from torchloops.callbacks.of_lightning import _INSTEAD
from torchloops.errors import ConfigurationError
from torchloops.trainer.argument_names import NOT_HERE

pl = pytest.importorskip("pytorch_lightning")

PAGE = Path(__file__).parents[2] / "docs" / "coming-from-lightning.md"
ROW = re.compile(r"^\| `(\w+)` \| ([a-z ]+) \|(.*)\|$", re.MULTILINE)
STATES = {"same", "differs", "runs", "base", "not here"}
HOOKS = re.compile(
    r"on_\w+|setup|teardown|prepare_data|configure_\w+|\w+_dataloader|\w+_step|backward|optimizer_zero_grad"
    r"|transfer_batch_to_device|state_dict|load_state_dict"
)


def table(heading):
    text = PAGE.read_text(encoding="utf-8")
    section = text[text.index(f"### {heading}\n") :]
    rows = ROW.findall(section[:end] if (end := section.find("\n##", 5)) > 0 else section)
    assert len({name for name, *_ in rows}) == len(rows)
    for name, state, words in rows:
        assert state in STATES, name
        assert words.strip() or state in ("same", "runs"), f"{name} should say how it differs, or what to use"
    return {name: state for name, state, _ in rows}


def public(kind):
    return {name for name in dir(kind) if not name.startswith("_")}


def test_every_argument_of_the_trainer():
    rows, ours = table("Arguments of the Trainer"), inspect.signature(Trainer).parameters
    assert set(rows) == set(inspect.signature(pl.Trainer).parameters)
    assert {name for name, state in rows.items() if state != "not here"} == set(rows) & set(ours)
    for name in rows:
        if rows[name] == "not here":
            with pytest.raises(ConfigurationError, match=re.escape(NOT_HERE[name][:20])):
                Trainer(**{name: True})


def test_the_page_of_the_trainer_groups_all_arguments():
    page = (PAGE.parent / "trainer.md").read_text(encoding="utf-8")
    section = page[page.index("## Arguments, by what you want") : page.index("## Several training loaders")]
    assert set(inspect.signature(Trainer).parameters) - set(re.findall(r"`(\w+)(?:=\w+)?`", section)) == set()


def test_every_name_of_the_trainer():
    rows = table("Methods and attributes of the Trainer")
    assert set(rows) == public(pl.Trainer)
    trainer = Trainer(accelerator="cpu", enable_progress_bar=False)
    missing = [name for name in rows if not hasattr(type(trainer), name) and name not in vars(trainer)]
    assert missing == []
    for method in ("fit", "validate", "test", "predict", "save_checkpoint"):
        theirs = list(inspect.signature(getattr(pl.Trainer, method)).parameters)
        assert list(inspect.signature(getattr(Trainer, method)).parameters)[: len(theirs)] == theirs


def test_every_callback():
    rows = table("Callbacks")
    assert set(rows) == set(pl.callbacks.__all__)
    assert {name for name, state in rows.items() if state == "not here"} == set(_INSTEAD)
    ours = {name for name in rows if hasattr(torchloops.callbacks, name)}
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in ours if f"`torchloops.{name}`" not in text] == []


def test_every_logger():
    rows = table("Loggers")
    assert set(rows) == set(pl.loggers.__all__)


def test_every_hook():
    rows = table("Hooks of modules, data modules and callbacks")
    kinds = (pl.LightningModule, pl.LightningDataModule, pl.Callback)
    hooks = {name for kind in kinds for name in public(kind) if HOOKS.fullmatch(name)}
    hooks -= {"on_gpu", "configure_sharded_model", "global_step"}
    assert set(rows) == hooks
    ours = public(LoopModule) | public(DataModule) | public(Callback)
    assert set(rows) <= ours
