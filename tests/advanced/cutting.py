"""Stops a fit at every safe point, goes on from each in new objects, and compares the ends bit for bit."""

import numpy as np
import pandas as pd
import torch

from torchloops import Trainer
from torchloops.trainer.checkpoint_file import read_checkpoint


def trainer_in(folder, **arguments):
    """A quiet Trainer that saves at every safe point and keeps a copy of each file in ``trainer.files``."""
    quiet = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    quiet |= {"num_sanity_val_steps": 0, "checkpoint_every": "0 seconds"}
    trainer = Trainer(default_root_dir=folder, **{**quiet, **arguments})
    keeper, trainer.files, save = trainer.keeper, [], trainer.keeper.save

    def save_and_copy():
        save()
        copy = folder / f"cut_{len(trainer.files)}.ckpt"
        copy.write_bytes(keeper.path.read_bytes())
        trainer.files.append(copy)

    keeper.save = save_and_copy
    return trainer


def check_every_cut(study, tmp_path, expect=1, step=1):
    """Run ``study(folder, ckpt_path)`` whole, then go on from every ``step``-th safe point; all must end alike.

    Args:
        study: builds everything anew, fits, and returns ``(trainer, outcome)``, the outcome a dict of weights, tables
            and numbers.
        expect: safe points there are at least.

    Returns:
        ``(outcome, places)``: that of the whole run, and where each checkpoint was taken: the path of its run.
    """
    torch.manual_seed(0)
    np.random.seed(0)
    trainer, whole = study(tmp_path / "whole", None)
    files = trainer.files
    assert len(files) >= expect
    places = [read_checkpoint(file)["name"] for file in files]
    for index, file in list(enumerate(files))[::step]:
        torch.manual_seed(1000 + index)
        np.random.seed(index)
        where = f"cut at safe point {index} of {len(files)}, in {places[index]!r}"
        try:
            _, resumed = study(tmp_path / f"from_{index}", file)
        except Exception as error:
            raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error
        for name, value in whole.items():
            assert same(resumed[name], value), f"{where}: other {name}: {resumed[name]} instead of {value}"
    return whole, places


def same(one, other):
    """Whether two values are equal to the bit, seconds aside."""
    if isinstance(one, pd.DataFrame):
        one, other = (table[[n for n in table if "seconds" not in n]] for table in (one, other))
        return one.equals(other)
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other or (one != one and other != other)


def state_of(module):
    """Weights and buffers of a module, copied."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
