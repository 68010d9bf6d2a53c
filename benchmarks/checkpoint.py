"""Milliseconds to save and load a checkpoint, over `torch.save` and `torch.load` of the same tensors.

    python benchmarks/checkpoint.py [--turns 15] [--threads 1] [--folder FOLDER] [--out FILE.csv]
    python benchmarks/checkpoint.py --study [--folds 5] [--rounds 20] [--seconds 1]

Contenders take turns in one process, each next to a turn of the reference; the tables give the median of the paired
ratios and of the milliseconds. The states are those of an MLP with its Adam optimizer, as training saves them. A file
of `torch.save` alone may be cut, or lost, when the power is; what is comparable is written under another name, brought
to the disk (fsync), renamed, and the folder brought to the disk, and that is the reference. What fsync costs depends
on the disk: give a folder on the one to be measured. Files are read again from the system's memory.

What a step pays for knowing its position is in the figures of step_overhead.py.

With --study: the share of its time that active learning in each fold of a cross-validation spends saving, where a round
is short, by the Trainer alone and with a ModelCheckpoint in each round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchloops.trainer.checkpoint_file import read_checkpoint, write_checkpoint
from torchloops.trainer.checkpoint_formats import FORMAT

MODELS = {"small": (32, 1), "10 MB": (460, 4), "100 MB": (1020, 8)}
"""Name, and the width and number of the hidden layers; Adam's state is twice as large as the weights."""

Turn = Callable[[], Any]


def make_checkpoint(width: int, layers: int) -> dict[str, Any]:
    torch.manual_seed(0)
    net = nn.Sequential(*[nn.Linear(width, width) for _ in range(layers)], nn.Linear(width, 10))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, width)).sum().backward()
    optimizer.step()
    return {
        "format": FORMAT, "state_dict": net.state_dict(), "optimizer_states": [optimizer.state_dict()],
        "epoch": 1, "global_step": 1, "outer_runs": [],
    }  # fmt: skip


def save_to_disk(checkpoint: dict[str, Any], path: Path) -> None:
    """`torch.save` under another name, brought to the disk, renamed."""
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def save_for_good(checkpoint: dict[str, Any], path: Path) -> None:
    """`torch.save` as safe as it can be by hand: the new name is on the disk too."""
    save_to_disk(checkpoint, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def seconds(turn: Turn) -> float:
    start = time.perf_counter()
    turn()
    return time.perf_counter() - start


def compare(reference: str, contenders: dict[str, Turn], turns: int) -> list[dict[str, Any]]:
    """A row a contender, with the reference itself as the first."""
    rows = []
    for name, contender in contenders.items():
        seconds(contender)
        pairs = [(seconds(contenders[reference]), seconds(contender)) for _ in range(turns)]
        own, ratios = [own for _, own in pairs], [own / base for base, own in pairs]
        rows.append({
            "contender": name, "times": statistics.median(ratios), "milliseconds": 1000 * statistics.median(own),
            "least": 1000 * min(own), "most": 1000 * max(own),
        })  # fmt: skip
    return rows


def measure(checkpoint: dict[str, Any], folder: Path, turns: int) -> dict[str, list[dict[str, Any]]]:
    names = ("plain.ckpt", "safe.ckpt", "good.ckpt", "own.ckpt", "kept.ckpt")
    plain, safe, good, own, kept = (folder / name for name in names)
    saving = {
        "torch.save, fsync, rename, fsync": lambda: save_for_good(checkpoint, good),
        "torch.save, fsync, rename": lambda: save_to_disk(checkpoint, safe),
        "torch.save": lambda: torch.save(checkpoint, plain),
        "write_checkpoint": lambda: write_checkpoint(checkpoint, own),
        "write_checkpoint, the one before kept": lambda: write_checkpoint(checkpoint, kept, keep_previous=True),
    }
    loading = {
        "torch.load, weights_only": lambda: torch.load(safe, weights_only=True),
        "read_checkpoint": lambda: read_checkpoint(own),
    }
    return {
        "save": compare("torch.save, fsync, rename, fsync", saving, turns),
        "load": compare("torch.load, weights_only", loading, turns),
    }


def show(title: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{title}\n{'contender':40} {'times':>7} {'ms':>9} {'least':>9} {'most':>9}")
    for row in rows:
        print(
            f"{row['contender']:40} {row['times']:7.2f} {row['milliseconds']:9.3f} {row['least']:9.3f} "
            f"{row['most']:9.3f}"
        )


def study(folder: Path, folds: int, rounds: int, seconds_of_a_round: float, model_checkpoint: bool) -> dict[str, Any]:
    """Run the study, with four epochs a round that wait where a larger model would compute; say what saving took."""
    from torch.utils.data import TensorDataset

    import torchloops as tl
    from torchloops.callbacks import ModelCheckpoint

    n_epochs, spent = 4, [0.0, 0]

    class Small(tl.LoopModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.net(inputs)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def on_train_epoch_end(self) -> None:
            time.sleep(seconds_of_a_round / n_epochs)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    class Timed(ModelCheckpoint):
        def _write(self, trainer: Any, path: str) -> bool:
            start = time.perf_counter()
            written = super()._write(trainer, path)
            spent[0] += time.perf_counter() - start
            spent[1] += 1
            return written

    torch.manual_seed(0)
    data = TensorDataset(torch.randn(2000, 64), torch.arange(2000) % 10)
    labelled = tl.ActiveLearningDataModule(data, heuristic="entropy", initial_num_labels=50, query_size=10)
    callbacks = [Timed(monitor="loss", save_last=True)] if model_checkpoint else []
    trainer = tl.Trainer(
        accelerator="cpu", max_epochs=n_epochs, logger=False, enable_progress_bar=False, default_root_dir=folder,
        callbacks=callbacks,
    )  # fmt: skip
    inner = tl.ActiveLearningLoop(max_rounds=rounds, label_epoch_frequency=n_epochs, inference_iteration=2)
    inner.connect(trainer.fit_loop)
    outer = tl.KFoldLoop(num_folds=folds)
    outer.connect(inner)
    trainer.fit_loop = outer
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Small(), datamodule=labelled)
    wall = time.perf_counter() - start
    own = trainer.keeper
    sizes = [path.stat().st_size for path in folder.rglob("*.ckpt")]
    return {
        "seconds": wall, "of the Trainer %": 100 * own.seconds / wall, "its files": own.saves,
        "of ModelCheckpoint %": 100 * spent[0] / wall, "its files, too": spent[1],
        "largest file, MB": max(sizes) / 1e6, "smallest, MB": min(sizes) / 1e6,
    }  # fmt: skip


def run_study(folds: int, rounds: int, seconds_of_a_round: float, folder: Path | None) -> None:
    print(f"{rounds} rounds x {folds} folds, {seconds_of_a_round} s a round")
    for name, with_callback in (("the Trainer alone", False), ("with ModelCheckpoint: best and last", True)):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            figures = study(Path(place), folds, rounds, seconds_of_a_round, with_callback)
        print(f"\n{name}\n" + "\n".join(f"  {key:24} {value:10.2f}" for key, value in figures.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's temporary folder")
    parser.add_argument("--out", type=Path, help="write the tables as CSV")
    parser.add_argument("--study", action="store_true", help="the share of time that saving takes in a study")
    parser.add_argument("--folds", type=int, default=5, help="of the study")
    parser.add_argument("--rounds", type=int, default=20, help="of the study, in each fold")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.study:
        run_study(arguments.folds, arguments.rounds, arguments.seconds, arguments.folder)
        return
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.turns} turns")
    tables = []
    for name, (width, layers) in MODELS.items():
        checkpoint = make_checkpoint(width, layers)
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            for what, rows in measure(checkpoint, Path(folder), arguments.turns).items():
                size = (Path(folder) / "own.ckpt").stat().st_size
                show(f"{what}, {name} ({size / 1e6:.3g} MB)", rows)
                tables += [{"model": name, "bytes": size, "what": what, **row} for row in rows]
    if arguments.out:
        import pandas as pd

        pd.DataFrame(tables).to_csv(arguments.out, index=False)


if __name__ == "__main__":
    main()
