"""The names that torchloops promises: all of them are there, and a misspelt one gets a suggestion."""

import importlib
import pkgutil

import pytest

import torchloops
import torchloops.loops


@pytest.mark.parametrize("name", torchloops.__all__)
def test_every_public_name_is_there(name):
    assert getattr(torchloops, name) is not None
    assert name in dir(torchloops)


def test_public_names_are_sorted_and_unique():
    names = torchloops.__all__[1:]
    assert torchloops.__all__[0] == "__version__"
    assert names == sorted(set(names), key=lambda name: (name[0].islower(), name))


@pytest.mark.parametrize(
    "name",
    [
        "Loop", "FitLoop", "TrainingEpochLoop", "TrainingBatchLoop", "OptimizerLoop", "ManualLoop", "EvaluationLoop",
        "EvaluationEpochLoop", "PredictionLoop", "PredictionEpochLoop",
    ],
)  # fmt: skip
def test_every_built_in_loop_is_exported_twice(name):
    assert name in torchloops.loops.__all__
    loop_class = getattr(torchloops.loops, name)
    assert getattr(torchloops, name) is loop_class
    assert issubclass(loop_class, torchloops.Loop)


@pytest.mark.parametrize(
    "name",
    [
        "Trainer", "LoopModule", "DataModule", "Callback", "ModelCheckpoint", "EarlyStopping", "LearningRateMonitor",
        "RichProgressBar", "CSVLogger", "TensorBoardLogger", "seed_everything", "ActiveLearningDataModule",
        "ActiveLearningLoop", "ImageClassificationData", "ImageClassifier", "Probabilities", "download_data",
    ],
)  # fmt: skip
def test_names_of_the_page_and_of_the_brief_are_public(name):
    assert name in torchloops.__all__


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("Trianer", "Trainer"),
        ("FitLop", "FitLoop"),
        ("seed_everythin", "seed_everything"),
        ("EarlyStoping", "EarlyStopping"),
    ],
)
def test_a_misspelt_name_gets_a_suggestion(wrong, right):
    with pytest.raises(AttributeError, match=rf"torchloops has no '{wrong}'\. Did you mean \"{right}\"\?"):
        getattr(torchloops, wrong)


def test_a_name_like_no_other_gets_no_suggestion():
    with pytest.raises(AttributeError, match=r"torchloops has no 'xyzzy'\.$"):
        torchloops.xyzzy  # noqa: B018
    assert not hasattr(torchloops, "__path_of_nothing__")


def test_import_from_names_what_is_missing():
    with pytest.raises(ImportError, match="Trianer"):
        exec("from torchloops import Trianer")


PUBLIC_MODULES = ["torchloops.loops", "torchloops.trainer", "torchloops.callbacks", "torchloops.errors",
                  "torchloops.loggers", "torchloops.seeding", "torchloops.testing", "torchloops.module",
                  "torchloops.data", "torchloops.vision", "torchloops.advanced.active_learning",
                  "torchloops.report"]  # fmt: skip


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_what_a_module_promises_it_has(module):
    found = importlib.import_module(module)
    assert len(set(found.__all__)) == len(found.__all__) > 0
    assert [name for name in found.__all__ if not hasattr(found, name)] == []


def test_every_loop_class_of_the_package_of_loops_is_exported():
    from torchloops.loops import Loop

    defined = set()
    for info in pkgutil.iter_modules(torchloops.loops.__path__):
        module = importlib.import_module(f"torchloops.loops.{info.name}")
        defined |= {
            name
            for name, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, Loop) and value.__module__ == module.__name__
        }
    assert defined <= set(torchloops.loops.__all__)
