"""Wrong training labels, and a few right ones that guide the gradient steps: beside the plain loop.

Most training labels are kept as they are, a share of them is made wrong, and a small guide split stays clean.
`ValidationGuidedLoop` scales every step by 1 / guide loss, or weighs the samples of a batch by their gradients'
agreement with the guide's. Heavy imports stand inside the functions, so that --help answers at once.
"""

from typing import TYPE_CHECKING, Any, Literal

from torchloops.report import RunFolder

if TYPE_CHECKING:
    from torch.utils.data import TensorDataset

    from torchloops import ImageClassificationData, ImageClassifier

FILES = {
    "report": "report.html",
    "curve": "plots/accuracy_vs_steps.png",
    "guide": "plots/guide.png",
}
EXTENDABLE = ("max_epochs", "repeats")


def main(
    run: RunFolder,
    *,
    dataset: Literal["digits", "mnist"] = "digits",
    data_dir: str | None = None,
    download: bool = False,
    scale: Literal["inverse", "reweight", "both"] = "both",
    wrong_labels: float = 0.4,
    guide_size: int = 100,
    guide_batch_size: int = 100,
    max_scale: float = 10.0,
    repeats: int = 3,
    max_epochs: int = 100,
    batch_size: int = 64,
    optimizer: Literal["sgd", "adam"] = "sgd",
    lr: float = 0.1,
    seed: int = 0,
    accelerator: str = "auto",
    devices: str = "auto",
    checkpoint_every: str | None = None,
) -> None:
    """Train on wrong labels with and without guidance by a few right ones, from the same weights.

    Beside the guided trainings run "plain", on the wrong labels and the guide split together, and "guide only", on
    the guide split alone.

    Args:
        dataset: the images; digits needs no files.
        data_dir: folder of the files of MNIST; default $TORCHLOOPS_DATA_DIR, else data/.
        download: fetch missing files.
        scale: how the guide split guides: 1 / guide loss (inverse), weights of samples (reweight), or both in turn.
        wrong_labels: share of the training labels, but for the guide split, that is made wrong.
        guide_size: training images whose labels stay right.
        guide_batch_size: of them for one step.
        max_scale: greatest factor of inverse.
        repeats: seeds: seed, seed + 1, ...; a claim needs at least 10.
        max_epochs: epochs of a training.
        batch_size: samples in a batch.
        optimizer: sgd (without momentum) or adam, which cancels a constant factor of the gradient.
        lr: learning rate; 0.003 is a good one for adam.
        seed: of the data split and of the first repeat.
        accelerator: auto, cpu, gpu ...
        devices: number of devices, or auto.
        checkpoint_every: "30 seconds", "100 steps", "1 epoch"; default: about once a minute, and after every epoch.
    """
    import pandas
    from torch.utils.data import DataLoader

    from torchloops import Trainer, ValidationGuidedLoop, seed_everything
    from torchloops.report import EpochClock, StudyProgress, join_metrics
    from torchloops.shipped import load_dataset

    data = load_dataset(dataset, data_dir, batch_size=batch_size, seed=seed, download=download)
    scales = ["inverse", "reweight"] if scale == "both" else [scale]
    pairs = [(seed + repeat, name) for repeat in range(repeats) for name in ("plain", "guide only", *scales)]
    seconds = []
    with StudyProgress(run, total=len(pairs) * max_epochs, unit="epoch") as progress:
        for study_seed, strategy in pairs:
            noisy, guide = spoil_labels(data, guide_size, wrong_labels, study_seed)
            study = choose_data(data, strategy, noisy, guide, study_seed)
            seed_everything(study_seed)
            model = build_model(data, optimizer, lr)
            clock = EpochClock()
            folder = run.path / "trainings" / f"{strategy.replace(' ', '-')}_{study_seed}"
            trainer = Trainer(
                accelerator=accelerator,
                devices=int(devices) if devices.isdigit() else devices,
                max_epochs=max_epochs,
                default_root_dir=folder,
                callbacks=[progress, clock],
                enable_progress_bar=False,
                checkpoint_every=checkpoint_every,
            )
            if strategy in scales:
                loop = ValidationGuidedLoop(
                    guide_dataloader=DataLoader(guide, guide_batch_size), scale=strategy, max_scale=max_scale
                )
                trainer.fit_loop.replace(epoch_loop=loop)
            trainer.fit(model, datamodule=study, ckpt_path=run.ckpt_path(folder))
            row = {"strategy": strategy, "seed": study_seed, "steps": trainer.global_step}
            seconds.append({**row, "seconds": clock.seconds})
            score = float(trainer.callback_metrics["val/accuracy"])
            run.say(f"       {strategy}, seed {study_seed}: {score:.1%} of the test images right")
    write_results(run, join_metrics(run.path / "trainings"), pandas.DataFrame(seconds))


def spoil_labels(
    data: "ImageClassificationData", guide_size: int, share: float, seed: int
) -> tuple["TensorDataset", "TensorDataset"]:
    """Cut a guide split with right labels from the training data; in the rest, make a share of the labels wrong."""
    import torch
    from sklearn.model_selection import train_test_split
    from torch.utils.data import TensorDataset

    samples = data.train_dataset_eval
    images, targets = data.collate_fn([samples[index] for index in range(len(samples))])
    rest, guide = train_test_split(range(len(targets)), test_size=guide_size, stratify=targets, random_state=seed)
    generator = torch.Generator().manual_seed(seed)
    labels = targets[rest]
    wrong = torch.randperm(len(rest), generator=generator)[: round(share * len(rest))]
    labels[wrong] += torch.randint(1, data.num_classes, wrong.shape, generator=generator)
    return TensorDataset(images[rest], labels % data.num_classes), TensorDataset(images[guide], targets[guide])


def choose_data(
    data: "ImageClassificationData", strategy: str, noisy: "TensorDataset", guide: "TensorDataset", seed: int
) -> "ImageClassificationData":
    """What a strategy trains on; the test images stand in for validation data, and nothing is chosen by them."""
    import torch
    from torch.utils.data import TensorDataset

    from torchloops import ImageClassificationData

    pairs = list(zip(noisy.tensors, guide.tensors, strict=True))
    if strategy == "plain":
        train = TensorDataset(*(torch.cat(pair) for pair in pairs))
    elif strategy == "guide only":
        repeated = torch.arange(len(noisy)) % len(guide)  # as many steps an epoch as the others have
        train = TensorDataset(*(clean[repeated] for _, clean in pairs))
    else:
        train = noisy
    test = data.collate_fn([data.test_dataset[index] for index in range(len(data.test_dataset))])
    return ImageClassificationData.from_datasets(
        train_dataset=train,
        val_dataset=TensorDataset(*test),
        num_classes=data.num_classes,
        batch_size=data.batch_size,
        seed=seed,
    )


def build_model(data: "ImageClassificationData", optimizer: str, lr: float) -> "ImageClassifier":
    """A network with one wide hidden layer and no dropout, which can learn wrong labels by heart."""
    import torch

    from torchloops import ImageClassifier

    return ImageClassifier(
        "mlp",
        num_classes=data.num_classes,
        backbone_options={"in_features": data.train_dataset_eval[0][0].numel(), "hidden": 256, "dropout": 0.0},
        optimizer=torch.optim.SGD if optimizer == "sgd" else "adam",
        learning_rate=lr,
    )


def write_results(run: RunFolder, metrics: Any, seconds: Any) -> None:
    """Write tables, plots and page; print the table, where things are and what to type next."""
    from torchloops.report import guidance_table, write_guidance_report

    names = metrics["run"].str.rsplit("_", n=1)
    metrics.insert(0, "strategy", names.str[0].str.replace("-", " "))
    metrics.insert(1, "seed", names.str[1].astype(int))
    curves = metrics.rename(columns={"val/accuracy": "test/accuracy", "val/loss": "test/loss"})
    order = {name: place for place, name in enumerate(dict.fromkeys(seconds["strategy"]))}
    curves = curves.drop(columns="run").sort_values(["strategy", "seed"], key=lambda c: c.map(order).fillna(c))
    summary = write_guidance_report(run, curves, seconds)
    run.say(guidance_table(summary), result=True)
    for what, file in FILES.items():
        run.say(f"{what:7}{run.path / file}", result=True)
    run.say(f"next   torchloops run validation_guided -c {run.path / 'config.yaml'} --repeats 10")
