"""A folder of pictures without labels, people who label them, and a model that says which to label next.

The page opens in the browser. Each round shows the pictures whose labels the model would learn most from; then it
trains on all labels, is tested, and asks again. Heavy imports stand inside the functions, so that --help answers at
once.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torchloops.report import RunFolder

if TYPE_CHECKING:
    import pandas

    from torchloops import ImageClassifier
    from torchloops.advanced.active_learning import AnnotatedDataModule
    from torchloops.annotation import Annotator

EXTENDABLE = ("rounds", "budget", "target", "plateau", "minutes", "detach", "host", "port", "open_browser", "annotator")
SHIPPED = {"china.jpg": "temple", "flower.jpg": "flower"}
TILE, TILES = 128, 40


def main(
    run: RunFolder,
    *,
    pool: str | None = None,
    classes: str | None = None,
    test: str | None = None,
    labels: str | None = None,
    annotator: Literal["page", "terminal", "simulated"] = "page",
    truth: str | None = None,
    detach: bool = False,
    host: str = "127.0.0.1",
    port: int = 0,
    open_browser: bool = True,
    double_share: float = 0.0,
    new_classes: int = 0,
    skipped: Literal["out", "back"] = "out",
    ahead: int = 0,
    backbone: str | None = None,
    weights: str | None = None,
    image_size: int | None = None,
    pixel_mean: float | None = None,
    pixel_std: float | None = None,
    heuristic: str = "margin",
    query_size: int = 18,
    rounds: int = 10,
    budget: int | None = None,
    target: float | None = None,
    plateau: int | None = None,
    minutes: float | None = None,
    draws: int = 1,
    max_epochs: int = 15,
    batch_size: int = 16,
    lr: float = 3e-3,
    seed: int = 0,
    accelerator: str = "auto",
    devices: str = "auto",
    checkpoint_every: str | None = None,
) -> None:
    """Label your own pictures while a model learns from them and asks for the next.

    Args:
        pool: folder of the pictures; default: 80 tiles of two photographs that scikit-learn ships.
        classes: their classes, with commas between: ant,bee.
        test: folder of class folders to test on; default: a tenth of the questions is drawn at random and measures.
        labels: known labels: a CSV file, a folder of class folders, or Label Studio's JSON.
        annotator: who is asked: people at the labelling page, at the terminal, or simulated ones.
        truth: folder of class folders that simulated people answer from.
        detach: do not wait for people: end with code 3, to be resumed when they have answered.
        host: address of the page; on any but this machine's own it asks for a token.
        port: of the page; default a free one.
        open_browser: open the page in this machine's browser.
        double_share: share of the pictures that a second person labels too.
        new_classes: outputs to spare for classes that people add.
        skipped: whether skipped pictures stay out, or may come back.
        ahead: so many of the next best can be labelled while the model trains.
        backbone: any that ImageClassifier takes; default small_cnn, or resnet18 where weights are given.
        weights: of the backbone: DEFAULT or a file. A backbone with weights is frozen.
        image_size: pixels; default 64, or 224 where weights are given.
        pixel_mean: what pixels are normalised with, for a backbone that was not trained with ImageNet's.
        pixel_std: likewise.
        heuristic: what to ask first: margin, entropy, certainty, bald (give draws) or random.
        query_size: pictures asked for in a round; those that measure come on top.
        rounds: trainings at most.
        budget: labels in all at most.
        target: stop when this share of the test pictures is right.
        plateau: stop when so many rounds in a row brought nothing.
        minutes: stop when people have spent so many on labels.
        draws: dropout masks when the pool is scored.
        max_epochs: epochs of a training.
        batch_size: pictures in a batch.
        lr: learning rate of Adam.
        seed: of the first weights, the questions that chance draws, and the order of batches.
        accelerator: auto, cpu, gpu ...
        devices: number of devices, or auto.
        checkpoint_every: "30 seconds", "100 steps", "1 epoch"; default: about once a minute, and after every epoch.
    """
    from torchloops import ActiveLearningDataModule, ActiveLearningLoop, Trainer, seed_everything
    from torchloops.advanced.active_learning import LabellingMinutes, Plateau, TargetReached
    from torchloops.report import RoundProgress

    pool, truth, classes = find_pool(run, pool, truth, classes)
    statistics = {name: (value,) * 3 for name, value in (("mean", pixel_mean), ("std", pixel_std)) if value is not None}
    data = ActiveLearningDataModule.from_folder(
        pool,
        [name.strip() for name in classes.split(",")],
        test=test,
        labels=labels,
        annotator=make_annotator(run, annotator, truth, detach=detach, host=host, port=port, open_browser=open_browser),
        store=run.file("labels.sqlite"),
        new_classes=new_classes,
        skipped=skipped,
        ahead=ahead,
        heuristic=heuristic,
        query_size=query_size,
        seed=seed,
        image_size=image_size or (224 if weights else 64),
        batch_size=batch_size,
        **statistics,
    )
    data.store.set_double_share(double_share)
    measured = f"{len(data.datamodule.test_dataset)} to test on" if test else "a random tenth of the questions measures"
    run.say(f"data   {len(data.samples)} pictures in {pool}, {data.n_labelled} labelled; {measured}")
    seed_everything(seed)
    model = build_model(len(data.classes), backbone, weights, image_size or 64, lr)
    criteria = ((TargetReached, target), (Plateau, plateau), (LabellingMinutes, minutes))
    loop = ActiveLearningLoop(
        inference_iteration=draws,
        max_rounds=rounds,
        budget=budget,
        stopping=[criterion(value) for criterion, value in criteria if value is not None],
    )
    with RoundProgress(run, total=rounds) as progress:
        trainer = Trainer(
            accelerator=accelerator,
            devices=int(devices) if devices.isdigit() else devices,
            max_epochs=max_epochs,
            default_root_dir=run.path / "training",
            callbacks=[progress],
            enable_progress_bar=False,
            checkpoint_every=checkpoint_every,
        )
        loop.connect(trainer.fit_loop)
        trainer.fit_loop = loop
        freeze = "freeze" if weights else "no_freeze"
        trainer.finetune(model, datamodule=data, strategy=freeze, ckpt_path=run.ckpt_path(run.path / "training"))
    if loop.stopped_by:
        run.say(f"       stopped: {loop.stopped_by}")
    trainer.save_checkpoint(run.file("checkpoints", "model.ckpt"), weights_only=True)
    write_results(run, data, loop, heuristic, seed)


def find_pool(run: RunFolder, pool: str | None, truth: str | None, classes: str | None) -> tuple[str, str | None, str]:
    """The pool, the truth and the classes that were given; else the tiles, which are made in the run folder."""
    from torchloops.errors import ConfigurationError

    if pool is not None:
        if not classes:
            raise ConfigurationError("Nobody knows the classes of your pictures. Name them: --classes ant,bee")
        return pool, truth, classes
    folder = make_tiles(run.file("tiles", "pool").parent)
    return str(folder / "pool"), str(folder / "truth"), classes or ",".join(SHIPPED.values())


def make_tiles(folder: Path) -> Path:
    """Cut two photographs into tiles: all in ``pool``, and in a folder for each photograph in ``truth``."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_image

    order = iter(np.random.default_rng(0).permutation(len(SHIPPED) * TILES))  # names that do not tell
    for name, label in SHIPPED.items():
        photograph, draw = load_sample_image(name), np.random.default_rng(len(name))
        for _ in range(TILES):
            top, left = (int(draw.integers(0, size - TILE + 1)) for size in photograph.shape[:2])
            tile, file = (
                Image.fromarray(photograph[top : top + TILE, left : left + TILE]),
                f"tile_{next(order):02d}.png",
            )
            for place in (folder / "pool", folder / "truth" / label):
                place.mkdir(parents=True, exist_ok=True)
                tile.save(place / file)
    return folder


def make_annotator(run: RunFolder, kind: str, truth: str | None, **page: Any) -> "Annotator":
    """Whoever answers."""
    from torchloops.annotation import MaskedLabels, TerminalAnnotator, WebAnnotator
    from torchloops.errors import ConfigurationError

    if kind == "page":
        return WebAnnotator(say=lambda line: run.say(line, result=True), **page)
    if kind == "terminal":
        return TerminalAnnotator()
    if truth is None:
        raise ConfigurationError("Simulated people need the answers: --truth FOLDER, with a folder for each class.")
    return MaskedLabels(truth)


def build_model(
    num_outputs: int, backbone: str | None, weights: str | None, image_size: int, lr: float
) -> "ImageClassifier":
    """A classifier; its head begins with dropout, which strategies such as bald need."""
    from torchloops import ImageClassifier

    return ImageClassifier(
        name := backbone or ("resnet18" if weights else "small_cnn"),
        num_classes=num_outputs,
        head_dropout=0.3,
        weights=weights,
        backbone_options={"in_channels": 3, "image_size": image_size} if name == "small_cnn" else None,
        learning_rate=lr,
    )


def write_results(run: RunFolder, data: "AnnotatedDataModule", loop: Any, heuristic: str, seed: int) -> None:
    """Write labels, class folders, tables, plots and the page; print where things are and what to type next."""
    from torchloops.annotation import export_class_folders, export_csv
    from torchloops.report import join_metrics, write_labelling_report

    run.write_table("metrics.csv", join_metrics(run.path / "training"))
    export_csv(data.store, run.file("labels.csv"))
    count = export_class_folders(data.store, run.path / "labelled")
    keys = {"strategy": heuristic, "seed": seed}
    rounds, queries = loop.rounds.assign(**keys), loop.queries.assign(**keys)
    write_labelling_report(run, rounds, queries, data)
    run.say(table_of(rounds), result=True)
    for what, path in (
        ("report", "report.html"),
        ("labels", "labels.csv"),
        ("sorted", "labelled"),
        ("model", "checkpoints/model.ckpt"),
    ):
        run.say(f"{what:7}{run.path / path}", result=True)
    run.say(f"       {count} pictures are labelled")
    run.say(f"next   {run.resume_command} --rounds {len(rounds) + 5}")


def table_of(rounds: "pandas.DataFrame") -> Any:
    """For the terminal: a row a round."""
    from rich.table import Table

    table = Table(title="a row a round", title_justify="left")
    for heading in ("round", "labels", "test accuracy, %", "s labelling", "s training"):
        table.add_column(heading, justify="right")
    for row in rounds.to_dict("records"):
        score = row["test/accuracy"]
        shown = "" if score != score else f"{100 * score:.1f}"
        table.add_row(
            str(row["round"]),
            str(row["n_labelled"]),
            shown,
            f"{row['seconds_label']:.0f}",
            f"{row['seconds_train']:.1f}",
        )
    return table
