"""A GAN by a training step that yields: two optimizers, one forward pass of the generator a step.

The training step generates a batch, yields the discriminator's loss, and goes on with the same batch to yield the
generator's. A grid of samples is written every epoch, and the time saved over generating twice is measured in turns.
Heavy imports stand inside the functions, so that --help answers at once.
"""

from typing import TYPE_CHECKING, Any, Literal

from torchloops.report import RunFolder

if TYPE_CHECKING:
    import pandas

    from torchloops import ImageClassificationData, Trainer
    from torchloops.vision import ImageGAN

FILES = {
    "report": "report.html",
    "images": "plots/samples.png",
    "grids": "samples",
    "model": "checkpoints/model.ckpt",
}
EXTENDABLE = ("max_epochs", "turns")
GRID = 100


def main(
    run: RunFolder,
    *,
    dataset: Literal["digits", "mnist"] = "digits",
    data_dir: str | None = None,
    download: bool = False,
    latent: int = 32,
    hidden: int = 256,
    max_epochs: int = 300,
    batch_size: int = 64,
    lr: float = 1e-3,
    turns: int = 10,
    turn_epochs: int = 10,
    seed: int = 0,
    accelerator: str = "auto",
    devices: str = "auto",
    checkpoint_every: str | None = None,
) -> None:
    """Train a GAN by YieldLoop, and measure what one forward pass of the generator a step saves.

    Args:
        dataset: the images; digits needs no files.
        data_dir: folder of the files of MNIST; default $TORCHLOOPS_DATA_DIR, else data/.
        download: fetch missing files.
        latent: numbers that an image is generated from.
        hidden: width of the hidden layers of both networks.
        max_epochs: epochs of the training.
        batch_size: real images in a batch, and as many generated ones.
        lr: learning rate of Adam, for both networks.
        turns: how often one and two forward passes are timed, in turn; 0 leaves it out.
        turn_epochs: epochs of a timing.
        seed: of the data split, the weights, the noise and the order of batches.
        accelerator: auto, cpu, gpu ...
        devices: number of devices, or auto.
        checkpoint_every: "30 seconds", "100 steps", "1 epoch"; default: about once a minute, and after every epoch.
    """
    import pandas

    from torchloops import Trainer, YieldLoop
    from torchloops.report import EpochClock, SampleGrids, StudyProgress
    from torchloops.shipped import load_dataset

    data = load_dataset(dataset, data_dir, batch_size=batch_size, seed=seed, download=download)
    run.say(f"data   {dataset}: {len(data.train_dataset)} to train on, {len(data.test_dataset)} to compare with")
    device = {"accelerator": accelerator, "devices": int(devices) if devices.isdigit() else devices}
    options = {"latent": latent, "hidden": hidden, "learning_rate": lr}

    def new_trainer(**arguments: Any) -> "Trainer":
        trainer = Trainer(**device, enable_progress_bar=False, **arguments)
        trainer.fit_loop.epoch_loop.batch_loop.connect(optimizer_loop=YieldLoop())
        return trainer

    model = build_model(data, seed, **options)
    grids = SampleGrids(run.path / "samples", lambda module: generate(module, GRID, seed))
    with StudyProgress(run, total=max_epochs, unit="epoch") as progress:
        trainer = new_trainer(
            max_epochs=max_epochs,
            default_root_dir=run.path,
            callbacks=[progress, grids],
            checkpoint_every=checkpoint_every,
        )
        trainer.fit(model, train_dataloaders=data.train_dataloader(), ckpt_path=run.ckpt_path(run.path))
    trainer.save_checkpoint(run.file("checkpoints", "model.ckpt"), weights_only=True)
    timings = read_timings(run)
    for turn in range(len(timings) // 2, turns):
        for passes in (1, 2):
            clock = EpochClock()
            timer = new_trainer(max_epochs=turn_epochs, logger=False, callbacks=[clock], enable_checkpointing=False)
            module = build_model(data, seed, **options, reuse=passes == 1)
            timer.fit(module, train_dataloaders=data.train_dataloader())
            steps = timer.global_step // 2  # two optimizers, so two steps a batch
            timings.append({"turn": turn, "forward_passes": passes, "steps": steps, "seconds": clock.seconds})
        run.write_table("turns.csv", pandas.DataFrame(timings))
    write_results(run, data, model, grids.kept, pandas.DataFrame(timings), seed)


def read_timings(run: RunFolder) -> list[dict[str, Any]]:
    """The turns that a resumed run has timed already."""
    import pandas

    file = run.path / "turns.csv"
    return pandas.read_csv(file).to_dict("records") if run.resumed and file.is_file() else []


def build_model(data: "ImageClassificationData", seed: int, **options: Any) -> "ImageGAN":
    """A GAN for images of this size and range of pixels."""
    from torchloops import seed_everything
    from torchloops.vision import ImageGAN

    images = next(iter(data.test_dataloader()))[0]
    seed_everything(seed)
    return ImageGAN(images.shape[-1], (float(images.min()), float(images.max())), **options)


def generate(module: "ImageGAN", count: int, seed: int) -> Any:
    """Images ``(count, height, width)`` with values 0 to 1, always from the same noise."""
    import torch

    noise = torch.randn(count, module.latent, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return to_picture(module, module(noise.to(module.device)))


def to_picture(module: "ImageGAN", images: Any) -> Any:
    """From pixels as the networks see them to a numpy array ``(count, height, width)`` with values 0 to 1."""
    low, high = module.pixel_range
    return ((images.squeeze(1).cpu() - low) / (high - low)).numpy()


def write_results(
    run: RunFolder,
    data: "ImageClassificationData",
    model: "ImageGAN",
    kept: dict[int, Any],
    turns: "pandas.DataFrame",
    seed: int,
) -> None:
    """Write plots, tables and page; print what was measured, where things are and what to type next."""
    import pandas

    from torchloops.report import plot_samples_by_epoch, write_generation_report

    coverages, real = compare_with_test_images(data, model, seed)
    plot_samples_by_epoch(kept, run.file("plots", "samples.png"), real=to_picture(model, real[:10]))
    metrics = pandas.read_csv(run.path / "metrics.csv")
    write_generation_report(run, metrics, coverages, turns)
    for row in coverages.to_dict("records"):
        run.say(f"       {row['images']} cover {100 * row['coverage']:.0f} % of the test images", result=True)
    say_timings(run, turns)
    for what, file in FILES.items():
        run.say(f"{what:7}{run.path / file}", result=True)
    run.say(f"next   torchloops run yielding -c {run.path / 'config.yaml'} --seed 1")


def compare_with_test_images(
    data: "ImageClassificationData", model: "ImageGAN", seed: int
) -> tuple["pandas.DataFrame", Any]:
    """Coverage of test images (1,000 at most) by as many generated, as many real training images, and by noise."""
    import pandas
    import torch

    from torchloops.vision.gan import coverage

    real = torch.cat([images for images, _ in data.test_dataloader()])[:1000]
    others = data.collate_fn([data.train_dataset_eval[index] for index in range(len(real))])[0]
    low, high = model.pixel_range
    noise = torch.rand(real.shape, generator=torch.Generator().manual_seed(seed))
    kinds = {
        "generated images": torch.from_numpy(generate(model, len(real), seed + 1)).unsqueeze(1) * (high - low) + low,
        "training images": others,
        "noise": noise * (high - low) + low,
    }
    rows = [{"images": name, "coverage": coverage(images, real)} for name, images in kinds.items()]
    return pandas.DataFrame(rows), real


def say_timings(run: RunFolder, timings: "pandas.DataFrame") -> None:
    """Print what one forward pass of the generator a step saves over two."""
    from torchloops.report import forward_pass_table

    table = forward_pass_table(timings)
    if table is None:
        return
    rows = table.set_index("forward passes")
    once, twice, saved = (rows.loc[name, "milliseconds a step"] for name in ("1", "2", "saved"))
    low, high = rows.loc["saved", ["lowest", "highest"]]
    run.say(
        f"       a step: {once:.3f} ms with one forward pass of the generator, {twice:.3f} ms with two", result=True
    )
    run.say(f"       saved: {saved:.3f} ms a step ({low:.3f} to {high:.3f} over the turns)", result=True)
