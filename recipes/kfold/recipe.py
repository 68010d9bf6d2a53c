"""Cross-validation: one fresh model a fold, the mean score with its interval, and an ensemble of all folds.

The training images are cut into folds. Each fold trains a model from the same first weights on the others and is
scored on the part it has not seen; the test set is for the folds and their ensemble. Heavy imports stand inside
the functions, so that --help answers at once.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torchloops.files import write_whole
from torchloops.report import RunFolder

if TYPE_CHECKING:
    from torchloops import ImageClassificationData, ImageClassifier

FILES = {
    "report": "report.html",
    "table": "folds.csv",
    "oof": "oof_predictions.csv",
    "splits": "splits.json",
}
EXTENDABLE = ("folds",)
BACKBONES = {"digits": "small_cnn", "ants_bees": "resnet18"}


def main(
    run: RunFolder,
    *,
    dataset: Literal["digits", "ants_bees"] = "digits",
    data_dir: str | None = None,
    download: bool = False,
    backbone: str | None = None,
    weights: str | None = None,
    pixel_mean: float | None = None,
    pixel_std: float | None = None,
    num_folds: int | None = None,
    splitter: str | None = None,
    splits: str | None = None,
    folds: list[int] | None = None,
    ensemble: Literal["soft", "hard", "weights"] = "soft",
    n_jobs: int = 1,
    max_epochs: int = 30,
    batch_size: int = 64,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    seed: int = 0,
    accelerator: str = "auto",
    devices: str = "auto",
    checkpoint_every: str | None = None,
) -> None:
    """Cross-validate an image classifier, and test the ensemble of its folds.

    Args:
        dataset: the images; digits needs no files.
        data_dir: folder of the files of the other data sets; default $TORCHLOOPS_DATA_DIR, else data/.
        download: fetch missing files.
        backbone: any that ImageClassifier takes; default small_cnn or resnet18, by data set.
        weights: of the backbone: DEFAULT or a file. A backbone with weights is frozen.
        pixel_mean: what photographs are normalised with, for a backbone that was not trained with ImageNet's.
        pixel_std: likewise.
        num_folds: parts that the training images are cut into; default 5, or as splits says.
        splitter: how they are cut: stratified, kfold, repeated_stratified ...; default stratified, or as splits says.
        splits: a splits.json of an earlier run, to use its folds as they are, or one that was edited.
        folds: train only these, counted from 0; others can be added when the run is resumed. Default: all.
        ensemble: mean of the folds' probabilities (soft), their votes (hard), or the mean of their weights.
        n_jobs: folds at once, each in a process of its own.
        max_epochs: epochs of a fold.
        batch_size: samples in a batch.
        lr: learning rate of Adam.
        weight_decay: of Adam.
        seed: of the data split, the first weights, the folds and the order of batches.
        accelerator: auto, cpu, gpu ...
        devices: number of devices, or auto.
        checkpoint_every: "30 seconds", "100 steps", "1 epoch"; default: about once a minute, and after every epoch.
    """
    from torchloops import KFoldDataModule, KFoldLoop, Trainer, seed_everything
    from torchloops.advanced.kfold import Splits
    from torchloops.report import StudyProgress
    from torchloops.shipped import load_dataset

    statistics = {name: value for name, value in (("mean", pixel_mean), ("std", pixel_std)) if value is not None}
    data = load_dataset(dataset, data_dir, batch_size=batch_size, seed=seed, download=download, **statistics)
    run.say(f"data   {dataset}: {len(data.train_dataset)} for the folds, {len(data.test_dataset)} to test on")
    if splits is not None and not run.file("splits.json").is_file():
        write_whole(run.file("splits.json"), Path(splits).read_bytes())
    seed_everything(seed)
    model = build_model(data, backbone or BACKBONES[dataset], weights, lr, weight_decay)
    loop = KFoldLoop(
        num_folds=num_folds,
        export_path=run.path,
        splitter=splitter or (None if splits else "stratified"),
        folds=folds,
        seed=seed,
        test_each_fold=True,
        test_ensemble=ensemble,
        n_jobs=n_jobs,
    )
    ckpt_path = run.ckpt_path(run.path)
    if ckpt_path is None:
        for result in run.path.glob("fold_*/result.ckpt"):  # of a run that was cut before its first checkpoint
            result.unlink()
    count = len(Splits.read(run.file("splits.json"))) if splits else num_folds or 5
    with StudyProgress(run, total=len(folds or range(count)), unit="fold") as progress:
        trainer = Trainer(
            accelerator=accelerator,
            devices=int(devices) if devices.isdigit() else devices,
            max_epochs=max_epochs,
            default_root_dir=run.path,
            callbacks=[progress],
            enable_progress_bar=False,
            checkpoint_every=checkpoint_every,
        )
        loop.connect(trainer.fit_loop)
        trainer.fit_loop = loop
        freeze = "freeze" if weights else "no_freeze"
        trainer.finetune(model, datamodule=KFoldDataModule(data), strategy=freeze, ckpt_path=ckpt_path)
    write_results(run, data, loop)


def build_model(
    data: "ImageClassificationData", backbone: str, weights: str | None, lr: float, weight_decay: float
) -> "ImageClassifier":
    """A classifier with one linear layer on the backbone; a small backbone is built for the images' shape."""
    import torch

    from torchloops import ImageClassifier

    channels, height, width = data.train_dataset_eval[0][0].shape
    options = {
        "mlp": {"in_features": channels * height * width},
        "small_cnn": {"in_channels": channels, "image_size": height},
    }
    return ImageClassifier(
        backbone,
        num_classes=data.num_classes,
        weights=weights,
        optimizer=partial(torch.optim.Adam, weight_decay=weight_decay) if weight_decay else "adam",
        learning_rate=lr,
        backbone_options=options.get(backbone),
    )


def write_results(run: RunFolder, data: "ImageClassificationData", loop: Any) -> None:
    """Write plots, summary and page; print the table, where things are and what to type next."""
    from torchloops.report import cross_validation_table, join_metrics, write_kfold_report

    run.write_table("metrics.csv", join_metrics(run.path))
    write_kfold_report(run, loop, data.classes)
    run.say(cross_validation_table(loop), result=True)
    for what, file in FILES.items():
        run.say(f"{what:7}{run.path / file}", result=True)
    run.say(f"next   torchloops run kfold -c {run.path / 'config.yaml'} --splits {run.path / 'splits.json'} --lr 0.003")
