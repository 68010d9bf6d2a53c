"""Cross-validation of a small CNN on digits: KFoldLoop over a hand-written loop, and two folds at once over one.

    python benchmarks/kfold.py [--epochs 5] [--turns 5] [--threads 1] [--no-parallel] [--out FILE.csv]

Contenders take turns in one process, each next to a turn of the hand-written loop, and all do the same work: 5
stratified folds from the same initial weights, validation after every epoch, predictions for the held-out part at the
end. The tables give the median of the paired ratios. The hand-written loop comes twice: with a Subset in a
DataLoader, as people write it, and with batches gathered from memory, as KFoldLoop does for tensors. The cold start
of the processes is timed by itself. Two processes by hand show what the machine can give: two "cores" that are
threads of one give little.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, Subset, TensorDataset

from torchloops import KFoldDataModule, KFoldLoop, LoopModule, Trainer

FOLDS, BATCH = 5, 32


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


class Module(LoopModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = make_net()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self.net(batch[0])
        self.log("val/loss", nn.functional.cross_entropy(logits, batch[1]))
        self.log("val/accuracy", (logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def digits() -> TensorDataset:
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    return TensorDataset(torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(targets))


class Gathered:
    """A loader that takes each batch out of the tensors at once."""

    def __init__(self, data: TensorDataset, ids: list[int], shuffle: bool) -> None:
        self.inputs, self.targets = data.tensors
        self.ids = torch.tensor(ids)
        sampler: Any = RandomSampler(ids) if shuffle else SequentialSampler(ids)
        self.batches = BatchSampler(sampler, BATCH, drop_last=False)

    def __iter__(self) -> Any:
        for batch in self.batches:
            rows = self.ids[batch]
            yield self.inputs[rows], self.targets[rows]


def subset_loader(data: TensorDataset, ids: list[int], shuffle: bool) -> Any:
    return DataLoader(Subset(data, ids), BATCH, shuffle=shuffle)


def by_hand(data: TensorDataset, epochs: int, make_loader: Callable[..., Any], n_jobs: int = 1) -> float:
    """5 folds as people write them; returns the mean accuracy."""
    from joblib import Parallel, delayed
    from sklearn.model_selection import StratifiedKFold

    start, threads = make_net().state_dict(), torch.get_num_threads()
    splits = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(data.tensors[0], data.tensors[1])
    folds = [(data, train.tolist(), held_out.tolist(), start, epochs, make_loader) for train, held_out in splits]
    if n_jobs == 1:
        return statistics.mean(fold_by_hand(*fold) for fold in folds)
    return statistics.mean(Parallel(n_jobs)(delayed(fold_by_hand)(*fold, threads=threads) for fold in folds))


def fold_by_hand(
    data: TensorDataset,
    train: list[int],
    held_out: list[int],
    start: dict[str, Tensor],
    epochs: int,
    make_loader: Callable[..., Any],
    threads: int | None = None,
) -> float:
    """The accuracy of one fold."""
    if threads is not None:
        torch.set_num_threads(threads)
    net = make_net()
    net.load_state_dict(copy.deepcopy(start))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    loaders = make_loader(data, train, True), make_loader(data, held_out, False)
    for _ in range(epochs):
        net.train()
        for inputs, targets in loaders[0]:
            loss = nn.functional.cross_entropy(net(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        evaluate(net, loaders[1])
    accuracy = evaluate(net, loaders[1])  # once more with the final weights, for the score ...
    with torch.inference_mode():  # ... and for the predictions
        torch.cat([net(inputs).softmax(1) for inputs, _ in loaders[1]])
    return accuracy


def evaluate(net: nn.Module, loader: Any) -> float:
    net.eval()
    correct, loss, count = 0.0, 0.0, 0
    with torch.inference_mode():
        for inputs, targets in loader:
            logits = net(inputs)
            loss += float(nn.functional.cross_entropy(logits, targets)) * len(targets)
            correct += float((logits.argmax(1) == targets).sum())
            count += len(targets)
    return correct / count


def by_loop(data: TensorDataset, epochs: int, n_jobs: int = 1, threads: int | None = None) -> float:
    with tempfile.TemporaryDirectory() as folder:
        loop = KFoldLoop(FOLDS, splitter="stratified", n_jobs=n_jobs, threads=threads)
        trainer = Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
            default_root_dir=folder,
        )  # fmt: skip
        loop.connect(trainer.fit_loop)
        trainer.fit_loop = loop
        trainer.fit(Module(), KFoldDataModule(data, batch_size=BATCH))
    return float(loop.folds["val/accuracy"].mean())


def seconds(run: Callable[[], float]) -> tuple[float, float]:
    start = time.perf_counter()
    score = run()
    return time.perf_counter() - start, score


def compare(reference: Callable[[], float], contenders: dict[str, Callable[[], float]], turns: int) -> list[dict]:
    rows = []
    seconds(reference)
    for name, contender in contenders.items():
        seconds(contender)
        pairs = [(seconds(reference)[0], *seconds(contender)) for _ in range(turns)]
        ratios = [own / base for base, own, _ in pairs]
        rows.append({
            "contender": name, "times": statistics.median(ratios), "least": min(ratios), "most": max(ratios),
            "seconds": statistics.median(own for _, own, _ in pairs), "accuracy": pairs[-1][2],
        })  # fmt: skip
    return rows


def show(title: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{title}\n{'contender':44} {'times':>7} {'least':>7} {'most':>7} {'seconds':>8} {'accuracy':>9}")
    for row in rows:
        print(
            f"{row['contender']:44} {row['times']:7.2f} {row['least']:7.2f} {row['most']:7.2f} {row['seconds']:8.2f} "
            f"{row['accuracy']:9.4f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of torch, in every process")
    parser.add_argument("--no-parallel", action="store_true")
    parser.add_argument("--out", type=Path, help="write the tables as CSV")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    data, epochs, turns = digits(), arguments.epochs, arguments.turns
    print(f"torch {torch.__version__}, {arguments.threads} threads, {FOLDS} folds x {epochs} epochs x {turns} turns")

    contenders = {
        "KFoldLoop": lambda: by_loop(data, epochs),
        "by hand, gathered batches": lambda: by_hand(data, epochs, Gathered),
    }
    tables = {"over a hand-written loop (Subset, DataLoader)": compare(
        lambda: by_hand(data, epochs, subset_loader), contenders, turns)}  # fmt: skip
    gathered = {"KFoldLoop": contenders["KFoldLoop"]}
    tables["over a hand-written loop with gathered batches"] = compare(
        contenders["by hand, gathered batches"], gathered, turns
    )
    if not arguments.no_parallel:
        cold, _ = seconds(lambda: by_loop(data, 1, n_jobs=2, threads=arguments.threads))
        print(f"cold start and one epoch with n_jobs=2: {cold:.1f} s")
        rows = compare(
            contenders["KFoldLoop"],
            {"KFoldLoop, n_jobs=2, warm": lambda: by_loop(data, epochs, n_jobs=2, threads=arguments.threads)},
            turns,
        )
        rows += compare(
            contenders["by hand, gathered batches"],
            {"by hand, gathered, 2 processes, warm": lambda: by_hand(data, epochs, Gathered, n_jobs=2)},
            turns,
        )
        tables["two folds at once over one after the other"] = rows
    for title, rows in tables.items():
        show(title, rows)
    if arguments.out:
        import pandas as pd

        pd.concat([pd.DataFrame(rows).assign(over=title) for title, rows in tables.items()]).to_csv(
            arguments.out, index=False
        )


if __name__ == "__main__":
    main()
