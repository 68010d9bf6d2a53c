"""Microseconds and Python calls a step of a 32-32-10 MLP at batch 32, over a hand-written PyTorch loop.

    python benchmarks/step_overhead.py [--steps 2000] [--turns 9] [--threads 2] [--only NAME ...] [--out FILE.csv]

Contenders take turns in one process, each next to a turn of the hand-written loop; the table gives the median of
those paired ratios. The clock starts and stops inside the data each contender iterates over, so set-up and tear-down
do not count, only steps. Calls are counted with cProfile over the same steps; they are exact and repeat.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import io
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP = 50


class Batches:
    """The same batches for every contender; it times, or profiles, the steps between two of them."""

    def __init__(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        self.batches = batches
        self.profile: cProfile.Profile | None = None
        self.seconds = 0.0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        last = len(self.batches) - 1
        for index, batch in enumerate(self.batches):
            if index == WARM_UP:
                if self.profile is not None:
                    self.profile.enable()
                start = time.perf_counter()
            elif index == last:
                self.seconds = time.perf_counter() - start
                if self.profile is not None:
                    self.profile.disable()
            yield batch

    @property
    def steps(self) -> int:
        return len(self.batches) - 1 - WARM_UP


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return MLP()


def make_module(base: type, log: bool) -> Any:
    class Module(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.net = make_net()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            inputs, targets = batch
            loss = nn.functional.cross_entropy(self.net(inputs), targets)
            if log:
                self.log("train/loss", loss, prog_bar=True)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            inputs, targets = batch
            loss = nn.functional.cross_entropy(self.net(inputs), targets)
            if log:
                self.log("val/loss", loss)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    return Module()


# training


def raw(data: Batches) -> None:
    net = make_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for inputs, targets in data:
        loss = nn.functional.cross_entropy(net(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def torchloops_trainer(folder: str, full: bool, callbacks: Any = (), **arguments: Any) -> Any:
    from rich.console import Console

    from torchloops import RichProgressBar, Trainer

    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    return Trainer(
        max_epochs=1, accelerator="cpu", logger=full, enable_progress_bar=False,
        default_root_dir=folder, callbacks=[*callbacks, RichProgressBar(console=terminal)] if full else callbacks,
        log_every_n_steps=1, **{"enable_checkpointing": False, **arguments},
    )  # fmt: skip


def torchloops_fit(full: bool = False, hooks: int = 0, **arguments: Any) -> Callable[[Batches], None]:
    def run(data: Batches) -> None:
        from torchloops import Callback, LoopModule

        class TwoHooks(Callback):
            def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None: ...

            def on_train_batch_end(
                self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
            ) -> None: ...

        with tempfile.TemporaryDirectory() as folder:
            trainer = torchloops_trainer(folder, full, [TwoHooks() for _ in range(hooks)], **arguments)
            trainer.fit(make_module(LoopModule, log=full), data)

    return run


def lightning_trainer(folder: str, full: bool) -> Any:
    from pytorch_lightning import Trainer
    from pytorch_lightning.loggers import CSVLogger

    return Trainer(
        max_epochs=1, accelerator="cpu", logger=CSVLogger(folder) if full else False, enable_progress_bar=full,
        enable_checkpointing=False, enable_model_summary=False, default_root_dir=folder, log_every_n_steps=1,
    )  # fmt: skip


def lightning_fit(full: bool) -> Callable[[Batches], None]:
    def run(data: Batches) -> None:
        from pytorch_lightning import LightningModule

        with tempfile.TemporaryDirectory() as folder:
            lightning_trainer(folder, full).fit(make_module(LightningModule, log=full), data)

    return run


def ignite_supervised(data: Batches) -> None:
    from ignite.engine import create_supervised_trainer

    net = make_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    create_supervised_trainer(net, optimizer, nn.functional.cross_entropy).run(data, max_epochs=1)


def skorch_fit(data: Batches) -> None:
    from skorch import NeuralNet

    net = NeuralNet(
        MLP, nn.CrossEntropyLoss, optimizer=torch.optim.SGD, lr=0.01, max_epochs=1, train_split=None,
        iterator_train=lambda dataset, **kwargs: data, verbose=0, callbacks__print_log=None,
    )  # fmt: skip
    net.fit(torch.zeros(1, 32), torch.zeros(1, dtype=torch.int64))


def fabric_by_hand(data: Batches) -> None:
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu")
    net = make_net()
    net, optimizer = fabric.setup(net, torch.optim.SGD(net.parameters(), lr=0.01))
    for inputs, targets in data:
        loss = nn.functional.cross_entropy(net(inputs), targets)
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()


TRAINING: dict[str, Callable[[Batches], None]] = {
    "torchloops, bare": torchloops_fit(),
    "torchloops, ready to be resumed": torchloops_fit(enable_checkpointing=True),
    "torchloops, log + bar + CSV": torchloops_fit(full=True),
    "torchloops, 5 callbacks of 2 hooks": torchloops_fit(hooks=5),
    "Fabric by hand": fabric_by_hand,
    "ignite, supervised trainer": ignite_supervised,
    "skorch": skorch_fit,
    "Lightning, bare": lightning_fit(full=False),
    "Lightning, log + bar + CSV": lightning_fit(full=True),
}


# validation


def raw_validation(data: Batches) -> None:
    net = make_net().eval()
    with torch.inference_mode():
        for inputs, targets in data:
            nn.functional.cross_entropy(net(inputs), targets)


def torchloops_validation(log: bool) -> Callable[[Batches], None]:
    def run(data: Batches) -> None:
        from torchloops import LoopModule

        with tempfile.TemporaryDirectory() as folder:
            torchloops_trainer(folder, full=False).validate(make_module(LoopModule, log), data)

    return run


def lightning_validation(log: bool) -> Callable[[Batches], None]:
    def run(data: Batches) -> None:
        from pytorch_lightning import LightningModule

        with tempfile.TemporaryDirectory() as folder:
            lightning_trainer(folder, full=False).validate(make_module(LightningModule, log), data, verbose=False)

    return run


VALIDATION: dict[str, Callable[[Batches], None]] = {
    "torchloops, bare": torchloops_validation(log=False),
    "torchloops, with self.log": torchloops_validation(log=True),
    "Lightning, bare": lightning_validation(log=False),
    "Lightning, with self.log": lightning_validation(log=True),
}


# measuring


def quietly(contender: Callable[[Batches], None], data: Batches) -> float:
    """Seconds a step; what the contender prints is thrown away."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        contender(data)
    return data.seconds / data.steps


def count_calls(contender: Callable[[Batches], None], data: Batches) -> float:
    data.profile = cProfile.Profile()
    quietly(contender, data)
    calls = sum(entry.callcount for entry in data.profile.getstats())
    data.profile = None
    return calls / data.steps


def compare(
    reference: Callable[[Batches], None], contenders: dict[str, Callable[[Batches], None]], data: Batches, turns: int
) -> list[dict[str, Any]]:
    ratios: dict[str, list[float]] = {name: [] for name in contenders}
    seconds: dict[str, list[float]] = {name: [] for name in ("raw", *contenders)}
    for turn in range(turns + 1):
        for name, contender in contenders.items():
            base, own = quietly(reference, data), quietly(contender, data)
            if turn:  # the first turn warms up
                ratios[name].append(own / base)
                seconds["raw"].append(base)
                seconds[name].append(own)
    rows = [{"contender": "hand-written loop", "times raw": 1.0, "least": 1.0, "most": 1.0}]
    rows += [
        {"contender": name, "times raw": statistics.median(found), "least": min(found), "most": max(found)}
        for name, found in ratios.items()
    ]
    functions = [reference, *contenders.values()]
    for row, name, function in zip(rows, ("raw", *contenders), functions, strict=True):
        row["microseconds"] = statistics.median(seconds[name]) * 1e6
        row["calls a step"] = count_calls(function, data)
    return rows


def show(title: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{title}\n{'contender':36} {'times raw':>9} {'least':>7} {'most':>7} {'us':>8} {'calls':>8}")
    for row in rows:
        print(
            f"{row['contender']:36} {row['times raw']:9.2f} {row['least']:7.2f} {row['most']:7.2f} "
            f"{row['microseconds']:8.1f} {row['calls a step']:8.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="steps a turn has")
    parser.add_argument("--turns", type=int, default=9, help="turns each contender has")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="contenders whose name contains one of these")
    parser.add_argument("--out", type=Path, help="write the tables as CSV")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.manual_seed(0)
    data = Batches([(torch.randn(32, 32), torch.randint(0, 10, (32,))) for _ in range(arguments.steps + WARM_UP + 1)])

    def chosen(contenders: dict[str, Any]) -> dict[str, Any]:
        only = arguments.only or [""]
        return {name: c for name, c in contenders.items() if any(word.lower() in name.lower() for word in only)}

    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.steps} steps x {arguments.turns} turns")
    training = compare(raw, chosen(TRAINING), data, arguments.turns)
    show("a training step", training)
    validation = compare(raw_validation, chosen(VALIDATION), data, arguments.turns)
    show("a validation batch", validation)
    if arguments.out:
        import pandas as pd

        frames = [pd.DataFrame(training).assign(what="training"), pd.DataFrame(validation).assign(what="validation")]
        pd.concat(frames).to_csv(arguments.out, index=False)


if __name__ == "__main__":
    main()
