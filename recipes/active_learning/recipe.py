"""Active learning beside random labelling: test accuracy against the number of labels.

A pool of images has hidden labels. Each round trains a fresh model on what is labelled, tests it, scores the
pool and asks for the labels it expects to learn most from. The same is done with random questions, from the
same first labels and weights. Heavy imports stand inside the functions, so that --help answers at once.
"""

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from torchloops.report import RunFolder

if TYPE_CHECKING:
    import pandas

    from torchloops import ImageClassificationData, ImageClassifier

    Tables = dict[str, dict[tuple[str, int], pandas.DataFrame]]

FILES = {
    "report": "report.html",
    "curve": "plots/accuracy_vs_labels.png",
    "model": "checkpoints/model.ckpt",
}
EXTENDABLE = ("rounds", "repeats")
BACKBONES = {"digits": "mlp", "mnist": "small_cnn", "ants_bees": "resnet18"}


def main(
    run: RunFolder,
    *,
    dataset: Literal["digits", "mnist", "ants_bees"] = "digits",
    data_dir: str | None = None,
    download: bool = False,
    backbone: str | None = None,
    weights: str | None = None,
    heuristic: str = "bald",
    rounds: int = 20,
    query_size: int = 10,
    initial_num_labels: int = 10,
    draws: int = 20,
    repeats: int = 3,
    max_steps: int = 200,
    max_epochs: int | None = None,
    batch_size: int = 256,
    lr: float = 3e-3,
    weight_decay: float = 0.0,
    seed: int = 0,
    accelerator: str = "auto",
    devices: str = "auto",
    checkpoint_every: str | None = None,
) -> None:
    """Train round by round on the labels a strategy asks for, and beside it on random ones.

    Args:
        dataset: the images; digits needs no files.
        data_dir: folder of the files of the other data sets; default $TORCHLOOPS_DATA_DIR, else data/.
        download: fetch missing files.
        backbone: any that ImageClassifier takes; default mlp, small_cnn or resnet18, by data set.
        weights: of the backbone: DEFAULT or a file. A backbone with weights is frozen.
        heuristic: what to ask first: bald, entropy, margin, certainty, variance, mean_std, random or one of baal.
        rounds: trainings; query_size samples are asked for between one and the next.
        query_size: samples asked for in a round.
        initial_num_labels: labels of the first training, spread over the classes.
        draws: dropout masks when the pool is scored.
        repeats: seeds: seed, seed + 1, ...; a claim needs at least 10.
        max_steps: optimizer steps of a training.
        max_epochs: epochs of a training, if they end before max_steps; default no limit.
        batch_size: samples in a batch; with 256 a step sees all labels of the digits study.
        lr: learning rate of Adam.
        weight_decay: of Adam; it can decide which strategy looks best.
        seed: of the data split and of the first repeat.
        accelerator: auto, cpu, gpu ...
        devices: number of devices, or auto.
        checkpoint_every: "30 seconds", "100 steps", "1 epoch"; default: about once a minute, and after every epoch.
    """
    from torchloops import ActiveLearningDataModule, ActiveLearningLoop, Trainer, seed_everything
    from torchloops.report import RoundProgress
    from torchloops.shipped import load_dataset

    data = load_dataset(dataset, data_dir, batch_size=batch_size, seed=seed, download=download)
    run.say(f"data   {dataset}: a pool of {len(data.train_dataset)}, {len(data.test_dataset)} to test on")
    strategies = list(dict.fromkeys([heuristic, "random"]))
    pairs = [(seed + repeat, strategy) for repeat in range(repeats) for strategy in strategies]
    tables: Tables = {"rounds.csv": {}, "queries.csv": {}}
    with RoundProgress(run, total=len(pairs) * rounds) as progress:
        for study_seed, strategy in pairs:
            progress.describe(f"{strategy}, seed {study_seed}")
            seed_everything(study_seed)
            model = build_model(data, backbone or BACKBONES[dataset], weights, lr, weight_decay)
            datamodule = ActiveLearningDataModule(
                data,
                heuristic=strategy,
                initial_num_labels=initial_num_labels,
                query_size=query_size,
                seed=study_seed,
            )
            folder = run.path / "trainings" / f"{strategy}_{study_seed}"
            trainer = Trainer(
                accelerator=accelerator,
                devices=int(devices) if devices.isdigit() else devices,
                max_epochs=max_epochs,
                max_steps=max_steps,
                default_root_dir=folder,
                callbacks=[progress],
                enable_progress_bar=False,
                checkpoint_every=checkpoint_every,
            )
            loop = ActiveLearningLoop(inference_iteration=draws, max_rounds=rounds)
            loop.connect(trainer.fit_loop)
            trainer.fit_loop = loop
            freeze = "freeze" if weights else "no_freeze"
            trainer.finetune(model, datamodule=datamodule, strategy=freeze, ckpt_path=run.ckpt_path(folder))
            if strategy == heuristic:
                trainer.save_checkpoint(run.file("checkpoints", "model.ckpt"), weights_only=True)
            tables["rounds.csv"][strategy, study_seed] = loop.rounds
            tables["queries.csv"][strategy, study_seed] = loop.queries
            for name in tables:
                run.write_table(name, join_tables(tables[name]))  # for whoever looks while it runs
            n_labels, accuracy = loop.rounds[["n_labelled", "test/accuracy"]].iloc[-1]
            score = f"{n_labels:.0f} labels, {accuracy:.1%} of the test images right"
            run.say(f"       {strategy}, seed {study_seed}: {score}")
    write_results(run, data, join_tables(tables["rounds.csv"]), join_tables(tables["queries.csv"]))


def build_model(
    data: "ImageClassificationData", backbone: str, weights: str | None, lr: float, weight_decay: float
) -> "ImageClassifier":
    """A classifier whose head begins with dropout: without any, all draws would be the same."""
    import torch

    from torchloops import ImageClassifier

    pixels = data.train_dataset_eval[0][0].numel()
    classifier = partial(
        ImageClassifier,
        num_classes=data.num_classes,
        weights=weights,
        optimizer=partial(torch.optim.Adam, weight_decay=weight_decay) if weight_decay else "adam",
        learning_rate=lr,
    )
    if backbone == "mlp":
        return classifier("mlp", backbone_options={"in_features": pixels})
    if backbone == "small_cnn":
        return classifier("small_cnn")
    head = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.LazyLinear(data.num_classes))
    return classifier(backbone, head=head)


def join_tables(tables: "dict[tuple[str, int], pandas.DataFrame]") -> "pandas.DataFrame":
    """One table from those of the studies, with the columns strategy and seed."""
    import pandas

    keys = ["strategy", "seed"]
    return pandas.concat(tables, names=keys).reset_index(level=keys)


def write_results(
    run: RunFolder, data: "ImageClassificationData", rounds: "pandas.DataFrame", queries: "pandas.DataFrame"
) -> None:
    """Write tables, plots and the page; print the table, where things are and what to type next."""
    from torchloops.report import comparison_table, join_metrics, write_active_learning_report

    def get_image(sample_id: int) -> Any:
        image = data.train_dataset_eval[sample_id][0]
        image = image.float() / (1 if image.is_floating_point() else 255)
        return image.squeeze(0) if len(image) == 1 else image.permute(1, 2, 0)

    run.write_table("metrics.csv", join_metrics(run.path / "trainings"))
    write_active_learning_report(run, rounds, queries, get_image=get_image, class_names=data.classes)
    run.say(comparison_table(rounds), result=True)
    for what, file in FILES.items():
        run.say(f"{what:7}{run.path / file}", result=True)
    same = f"torchloops run active_learning -c {run.path / 'config.yaml'}"
    run.say(f"next   {same} --heuristic margin --repeats 10")
