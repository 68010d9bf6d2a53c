"""Before the first fold: the data that is split, and the splits."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from torchloops.advanced.kfold.checks import UnusedValidationDataWarning
from torchloops.advanced.kfold.datamodule import KFoldDataModule
from torchloops.advanced.kfold.export import KFoldFolder
from torchloops.advanced.kfold.protocol import ProtocolData, follows_protocol
from torchloops.advanced.kfold.splits import Splits
from torchloops.advanced.kfold.splitters import DEFAULT_FOLDS, make_splits, may_use_labels, resolve_splitter, stratifies
from torchloops.advanced.kfold.state import KFoldState
from torchloops.data.fingerprint import check_same
from torchloops.data.items import NoLabelError
from torchloops.errors import ConfigurationError, DataError
from torchloops.seeding import isolated_generators, random_state, restore_random_state
from torchloops.trainer.loaders import as_loaders, number_of_batches
from torchloops.trainer.plain import plain_or_none

__all__ = ["check_test_data", "find_data", "find_splits", "settings_of"]


def find_data(trainer: Any) -> KFoldDataModule | ProtocolData:
    """The data of the fit as something that gives out folds."""
    given = trainer.training_data
    if follows_protocol(given):
        protocol = ProtocolData(given)
        protocol.trainer = trainer
        return protocol
    if not isinstance(given, KFoldDataModule):
        given = KFoldDataModule.wrap(_own_data(trainer) if given is None else given)
        if trainer.loaders("validate") and not given.is_study:
            warnings.warn(
                "The validation data of the fit is not used in cross-validation: each fold is validated on the part of "
                "the training data that it holds out. Put its samples into the training data, or leave it out.",
                UnusedValidationDataWarning,
                stacklevel=2,
            )
    given.trainer = trainer
    given.splits = None
    return given


def check_test_data(data: KFoldDataModule | ProtocolData) -> None:
    """Ask for the test data once, so that what is wrong with it is found before a fold is trained.

    Raises:
        DataError: a loader of it has no batches.
    """
    with isolated_generators():
        for loader in as_loaders(data.test_dataloader()):
            number_of_batches(loader)


def _own_data(trainer: Any) -> Any:
    """The training data of the module itself."""
    loaders = trainer.loaders("train")
    if not loaders:
        raise DataError(
            "There is no training data to split. Give fit() a KFoldDataModule, a data module, a loader or a data set."
        )
    return loaders[0]


def find_splits(loop: Any, data: KFoldDataModule | ProtocolData, folder: KFoldFolder | None, state: KFoldState) -> None:
    """Put the splits into ``state``, and into the folder; they stay None where the data module makes them itself.

    They are those of the run that goes on, else they are read from the folder where it has them, else made.

    Raises:
        ConfigurationError: the folder's splits are of another run.
        CheckpointError: the run that goes on had other splits or other data.
        DataError: the splits are refused.
    """
    if isinstance(data, ProtocolData):
        _have_splits_made(loop, data, state)
        return
    if state.data.get("labels (hash)"):
        data.read_targets()  # as the run did that goes on
    stored = folder.read_splits() if folder is not None else None
    before = state.splits
    splits = _made_splits(loop, data, before) if stored is None else _stored_splits(stored, loop, data, folder)
    if before is not None:
        _check_resumed(loop, data, splits, state)
    if stored is None and folder is not None and loop.trainer.is_global_zero:
        folder.write_splits(splits)
    data.splits = state.splits = splits
    state.count, state.data = len(splits), data.describe()


def _made_splits(loop: Any, data: KFoldDataModule, before: Splits | None) -> Splits:
    splitter = _splitter(loop, data)
    return before or make_splits(
        splitter, data.n_samples, data.sample_ids, _labels(data, splitter), data.groups, loop.num_folds, loop.seed
    )


def _stored_splits(stored: Splits, loop: Any, data: KFoldDataModule, folder: Any) -> Splits:
    """The splits of the folder, which must not contradict what the loop was told."""
    says: dict[str, tuple[Any, Any]] = {"n_samples": (stored.n_samples, data.n_samples)}
    told = (loop.splitter, loop.num_folds, loop.num_repeats)
    if any(value is not None for value in told):
        splitter = _splitter(loop, data)
        repeats = int(getattr(splitter, "n_repeats", 1))
        says["splitter"] = stored.splitter, type(splitter).__name__
        says["seed"] = stored.seed, loop.seed
        says["num_repeats"] = stored.num_repeats, repeats
        if loop.num_folds is not None:
            says["num_folds"] = len(stored), loop.num_folds * repeats
    other = [f"{name} {there} (now {now})" for name, (there, now) in says.items() if there != now]
    if other:
        raise ConfigurationError(
            f"{folder.path} belongs to another run: its splits.json has {', '.join(other)}. Give another export_path, "
            "or the arguments and data of that run; to take the folds of the file as they are, leave out splitter, "
            "num_folds and num_repeats."
        )
    return stored.check(None if stored.splitter == "PredefinedSplit" else data.groups)


def _splitter(loop: Any, data: KFoldDataModule) -> Any:
    return resolve_splitter(
        loop.splitter, loop.num_folds, loop.num_repeats, loop.seed, lambda: data.targets, data.groups
    )


def _have_splits_made(loop: Any, data: ProtocolData, state: KFoldState) -> None:
    """Let the data module make its folds, as at the start of the run where it goes on."""
    if loop.splitter is not None:
        raise ConfigurationError(
            f"splitter was given, but {type(data.datamodule).__name__} makes its folds itself (setup_folds). "
            "Leave splitter out, or remove setup_folds."
        )
    count = loop.num_folds or DEFAULT_FOLDS
    if state.random is None:
        state.random = random_state()
        data.set_up(count)
    else:
        check_same("KFoldLoop", {"num_folds": state.count}, {"num_folds": count})
        with isolated_generators():
            restore_random_state(state.random)
            data.set_up(count)
    state.count = count


def _check_resumed(loop: Any, data: KFoldDataModule, splits: Splits, state: KFoldState) -> None:
    """Refuse to go on with other data or splits than those of the folds that are finished."""
    check_same("The data of the cross-validation", state.data, data.describe())
    before = state.splits
    assert before is not None
    repeats = before.num_repeats
    check_same(
        "KFoldLoop", {"num_folds": len(before) // repeats}, {"num_folds": loop.num_folds or len(before) // repeats}
    )
    check_same("The cross-validation", {"splits (hash)": before.hash}, {"splits (hash)": splits.hash})


def _labels(data: KFoldDataModule, splitter: Any) -> np.ndarray | None:
    """Labels for the splitter; read out of the samples only where it may look at them and they are nowhere else."""
    if not may_use_labels(splitter):
        return data.targets
    try:
        return data.read_targets()
    except NoLabelError:
        if stratifies(splitter):
            raise
        return None


def settings_of(trainer: Any) -> dict[str, Any]:
    """Settings of the fit and hyper-parameters of the module, by name, as plain data."""
    from torchloops.trainer.settings import collect_settings

    return {name: plain_or_none(value) for name, value in collect_settings(trainer).items()}
