"""Small studies that are killed and resumed; each of another loop, callback or kind of data.

A scenario is a function ``(folder, saving) -> Study``, known by its name in `SCENARIOS`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from parts import (
    AugmentedImages,
    AveragedWeights,
    Counting,
    Descent,
    Drawing,
    Dropping,
    EpochFromScratch,
    Gathering,
    Halves,
    Importing,
    Logging,
    Masked,
    Mixing,
    Noisy,
    Normalized,
    Recurrent,
    Scheduled,
    SeedStudy,
    Sequences,
    Stepping,
    loader,
)
from torch.utils.data import DataLoader, Subset

from torchloops import (
    ActiveLearningDataModule,
    ActiveLearningLoop,
    KFoldDataModule,
    KFoldLoop,
    Trainer,
    ValidationGuidedLoop,
    YieldLoop,
)
from torchloops.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from torchloops.testing import random_dataset, random_loader

__all__ = ["SCENARIOS", "Study", "find_scenario"]


class Study:
    """What a scenario builds: a Trainer, a module, data, and which results count."""

    def __init__(self, trainer: Trainer, module: Any, *data: Any, **finetune: Any) -> None:
        self.trainer = trainer
        self.module = module
        self.data = data
        self.finetune = finetune
        self.tables: Callable[[], dict[str, Any]] = dict

    def fit(self, ckpt_path: str | None) -> None:
        """Train, from the start or from a checkpoint."""
        start: Any = self.trainer.finetune if self.finetune else self.trainer.fit
        start(self.module, *self.data, ckpt_path=ckpt_path, **self.finetune)

    def results(self) -> dict[str, Any]:
        """Weights, logged values, counters and tables after the run."""
        trainer = self.trainer
        return {
            "weights": dict(self.module.state_dict()),
            "metrics": dict(trainer.callback_metrics),
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "tables": self.tables(),
        }


def new_trainer(folder: Path, saving: str | None, **arguments: Any) -> Trainer:
    quiet: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "max_epochs": 3}
    return Trainer(default_root_dir=folder, checkpoint_every=saving, **{**quiet, **arguments})


def augmented(folder: Path, saving: str | None, workers: int = 0, **arguments: Any) -> Study:
    """Random augmentation, dropout, shuffling, validation."""
    train = loader(AugmentedImages(40), 8, shuffle=True, num_workers=workers)
    return Study(new_trainer(folder, saving, **arguments), Dropping(), train, random_loader(16, 8, seed=1))


def importing(folder: Path, saving: str | None) -> Study:
    """An import in the middle of an epoch, which draws random numbers."""
    return Study(new_trainer(folder, saving), Importing(), loader(AugmentedImages(40), 8, shuffle=True))


def logged(folder: Path, saving: str | None) -> Study:
    """torchmetrics, values a step and an epoch, several reductions."""
    trainer = new_trainer(folder, saving, log_every_n_steps=1, callbacks=[LearningRateMonitor()])
    validation = [random_loader(16, 8, seed=1), random_loader(24, 8, seed=2)]
    return Study(trainer, Logging(), loader(random_dataset(40), 8, shuffle=True), validation)


def several_validations(folder: Path, saving: str | None, every: int | float = 2) -> Study:
    """Validation in the middle of epochs."""
    trainer = new_trainer(folder, saving, val_check_interval=every, log_every_n_steps=1)
    return Study(trainer, Logging(), loader(AugmentedImages(40), 8, shuffle=True), random_loader(24, 8, seed=1))


def manual(folder: Path, saving: str | None) -> Study:
    """Manual optimization with two optimizers and a scheduler."""
    trainer = new_trainer(folder, saving, log_every_n_steps=2)
    return Study(trainer, Stepping(), loader(AugmentedImages(40), 8, shuffle=True), random_loader(16, 8, seed=1))


def accumulated(folder: Path, saving: str | None) -> Study:
    """Three batches a step, the last group short; clipping and schedulers."""
    trainer = new_trainer(folder, saving, accumulate_grad_batches=3, gradient_clip_val=0.5, max_epochs=3)
    return Study(trainer, Scheduled(), loader(AugmentedImages(64), 8, shuffle=True), random_loader(16, 8, seed=1))


def truncated(folder: Path, saving: str | None) -> Study:
    """Truncated backpropagation through time."""
    return Study(new_trainer(folder, saving), Recurrent(), loader(Sequences(24), 6, shuffle=True))


def stopping(folder: Path, saving: str | None) -> Study:
    """Early stopping, the two best checkpoints, and the best one by another value."""
    callbacks = [
        EarlyStopping("val/loss", patience=2, min_delta=0.3),
        ModelCheckpoint(monitor="val/loss", save_top_k=2),
        ModelCheckpoint(monitor="train/loss", dirpath=folder / "by_train", every_n_train_steps=2),
    ]
    trainer = new_trainer(folder, saving, max_epochs=8, callbacks=callbacks)
    return Study(trainer, Dropping(), loader(AugmentedImages(40), 8, shuffle=True), random_loader(24, 8, seed=1))


def averaged(folder: Path, saving: str | None) -> Study:
    """A callback of the user's with a state: the mean of the weights."""
    trainer = new_trainer(folder, saving, callbacks=[AveragedWeights()])
    return Study(trainer, Normalized(), loader(AugmentedImages(40), 8, shuffle=True), random_loader(16, 8, seed=1))


def ending_inside(folder: Path, saving: str | None) -> Study:
    """The last step is in the middle of an epoch; loaders are asked for anew each epoch; two schedulers."""
    trainer = new_trainer(folder, saving, max_epochs=-1, max_steps=12, reload_dataloaders_every_n_epochs=1)
    return Study(trainer, Scheduled(), loader(AugmentedImages(40), 8, shuffle=True), random_loader(16, 8, seed=1))


def lbfgs(folder: Path, saving: str | None) -> Study:
    """An optimizer with a closure."""
    trainer = new_trainer(folder, saving, max_epochs=2)
    return Study(trainer, Dropping(optimizer="LBFGS"), loader(AugmentedImages(32), 8, shuffle=True))


def finetuned(folder: Path, saving: str | None) -> Study:
    """A backbone that is frozen for an epoch."""
    trainer = new_trainer(folder, saving)
    data = loader(AugmentedImages(40), 8, shuffle=True), random_loader(16, 8, seed=1)
    return Study(trainer, Normalized(optimizer="Adam"), *data, strategy=("freeze_unfreeze", 1))


def from_scratch(folder: Path, saving: str | None) -> Study:
    """A fit loop that knows nothing of the built-in ones."""
    trainer = new_trainer(folder, saving, max_epochs=4)
    trainer.fit_loop = Descent()
    return Study(trainer, Dropping(), loader(AugmentedImages(40), 8, shuffle=True))


def epoch_from_scratch(folder: Path, saving: str | None) -> Study:
    """An epoch loop that knows nothing of the built-in one, on data that have generators of their own."""
    trainer = new_trainer(folder, saving)
    trainer.fit_loop.epoch_loop = EpochFromScratch()
    return Study(trainer, Dropping(), loader(Noisy(40), 8, shuffle=True))


def own_positions(folder: Path, saving: str | None) -> Study:
    """A sampler that counts and shuffles in place, generators in data and collate function, draws in all set-up."""
    train = DataLoader(Subset(Subset(Noisy(48), range(44)), range(40)), 8, sampler=Counting(40), collate_fn=Mixing())
    return Study(new_trainer(folder, saving, callbacks=Drawing()), Dropping(), train, random_loader(16, 8, seed=1))


def gathering(folder: Path, saving: str | None) -> Study:
    """A module that keeps lists between its hooks."""
    study = Study(new_trainer(folder, saving), module := Gathering(), loader(AugmentedImages(40), 8, shuffle=True))
    study.tables = lambda: {"means": module.means, "kept": module.kept, "left": module.outputs}
    return study


def declared(folder: Path, saving: str | None) -> Study:
    """An outer loop of the user's that says in one line what its state is."""
    trainer = new_trainer(folder, saving, max_epochs=2)
    loop = SeedStudy()
    loop.connect(fit_loop=trainer.fit_loop)
    trainer.fit_loop = loop
    study = Study(trainer, Dropping(), loader(AugmentedImages(40), 8, shuffle=True), random_loader(16, 8, seed=1))
    study.tables = lambda: {"scores": loop.scores}
    return study


def yielding(folder: Path, saving: str | None) -> Study:
    """An optimizer steps at every yield."""
    trainer = new_trainer(folder, saving, log_every_n_steps=2)
    trainer.fit_loop.epoch_loop.batch_loop.connect(optimizer_loop=YieldLoop())
    return Study(trainer, Halves(), loader(AugmentedImages(40), 8, shuffle=True), random_loader(16, 8, seed=1))


def guided(folder: Path, saving: str | None, scale: str = "inverse", **settings: Any) -> Study:
    """Every step is scaled by the loss on a guide split."""
    trainer = new_trainer(folder, saving, log_every_n_steps=2)
    trainer.fit_loop.replace(epoch_loop=ValidationGuidedLoop(guide_split=0.25, scale=scale, **settings))
    module = Masked() if scale == "reweight" else Dropping()  # weighted losses are the module's own
    return Study(trainer, module, loader(AugmentedImages(48), 8, shuffle=True), random_loader(16, 8, seed=1))


def folds(folder: Path, saving: str | None, **settings: Any) -> Study:
    """Cross-validation with files of every fold."""
    callbacks = [ModelCheckpoint(monitor="val/loss")] if settings.get("checkpoint") == "best" else []
    trainer = new_trainer(folder, saving, max_epochs=2, callbacks=callbacks)
    loop = KFoldLoop(num_folds=3, splitter="kfold", export_path=folder, **settings)
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    plain = random_dataset(16, seed=2)
    data = KFoldDataModule(AugmentedImages(36), batch_size=8, eval_dataset=random_dataset(36), test_dataset=plain)
    study = Study(trainer, Dropping(), data)
    study.tables = lambda: {"folds": loop.folds, "oof": loop.oof, "ensemble": loop.ensemble_scores}
    return study


def pool() -> ActiveLearningDataModule:
    return ActiveLearningDataModule(
        AugmentedImages(56),
        heuristic="bald",
        initial_num_labels=16,
        query_size=8,
        batch_size=8,
        eval_dataset=random_dataset(56),
        test_dataset=random_dataset(16, seed=2),
    )


def rounds(folder: Path, saving: str | None, **settings: Any) -> Study:
    """Active learning by dropout draws."""
    trainer = new_trainer(folder, saving, max_epochs=2)
    loop = ActiveLearningLoop(max_rounds=3, inference_iteration=4, **settings)
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    study = Study(trainer, Dropping(), pool())
    study.tables = lambda: {"rounds": loop.rounds, "queries": loop.queries}
    return study


def folds_of_rounds(folder: Path, saving: str | None) -> Study:
    """A study of active learning in every fold."""
    study = rounds(folder, saving)
    inside = study.trainer.fit_loop
    inside.max_rounds = 2
    loop = KFoldLoop(num_folds=2, splitter="kfold", export_path=folder)
    loop.connect(inside)
    study.trainer.fit_loop = loop
    study.tables = lambda: {"folds": loop.folds, "oof": loop.oof, **loop.tables}
    return study


def folds_of_guided(folder: Path, saving: str | None) -> Study:
    """A guided, yielding training in every fold."""

    def guide_step(module: Any, batch: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(module(batch[0]), batch[1])

    trainer = new_trainer(folder, saving, max_epochs=2)
    trainer.fit_loop.epoch_loop.batch_loop.connect(optimizer_loop=YieldLoop())
    trainer.fit_loop.replace(epoch_loop=ValidationGuidedLoop(guide_split=0.25, guide_step=guide_step))
    loop = KFoldLoop(num_folds=2, splitter="kfold", export_path=folder)
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    study = Study(
        trainer,
        Halves(momentum=0.5),
        KFoldDataModule(AugmentedImages(40), batch_size=8, eval_dataset=random_dataset(40)),
    )
    study.tables = lambda: {"folds": loop.folds, "oof": loop.oof}
    return study


Builder = Callable[[Path, "str | None"], Study]

SCENARIOS: dict[str, Builder] = {
    "fit": augmented,
    "fit, 2 workers": partial(augmented, workers=2),
    "an import on the way": importing,
    "logged values": logged,
    "validation every 2 batches": several_validations,
    "validation every 0.4 epochs": partial(several_validations, every=0.4),
    "manual optimization": manual,
    "accumulation": accumulated,
    "truncated backpropagation": truncated,
    "stopping early, keeping the best": stopping,
    "averaged weights": averaged,
    "max_steps inside an epoch": ending_inside,
    "LBFGS": lbfgs,
    "finetuning": finetuned,
    "from scratch": from_scratch,
    "an epoch from scratch": epoch_from_scratch,
    "positions of the data's own": own_positions,
    "lists between hooks": gathering,
    "a loop of the user's": declared,
    "yielding": yielding,
    "guided": guided,
    "guided by reweighting": partial(guided, scale="reweight"),
    "guided every 3 steps": partial(guided, every_n_steps=3, guide_batches=2),
    "folds": folds,
    "folds, best by an inner split": partial(folds, checkpoint="best", inner_split=0.25, test_each_fold=True),
    "folds in 2 processes": partial(folds, n_jobs=2, threads=1),
    "folds, refitted": partial(folds, refit=True, new_weights=True),
    "rounds": rounds,
    "rounds, going on with the weights": partial(rounds, should_reset_weights=False),
    "folds of rounds": folds_of_rounds,
    "folds of guided and yielding": folds_of_guided,
}


def find_scenario(name: str) -> Callable[[Path, str | None], Any]:
    """The scenario of a name: one of these, ``"recipe NAME"``, or one of `sabotage`."""
    if name in SCENARIOS:
        return SCENARIOS[name]
    if name.startswith("recipe "):
        from recipe_studies import RecipeStudy

        return partial(RecipeStudy, name.removeprefix("recipe "))
    from sabotage import BUILDERS

    return BUILDERS[name]
