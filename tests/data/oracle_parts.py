"""Set-ups for the oracle, each with its answers worked out by hand from saved weights; and how they are run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset, WeightedRandomSampler

from torchloops import Callback, DataModule, LoopModule, Trainer

QUIET = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False, "enable_checkpointing": False,
}  # fmt: skip
N, N_TEST = 48, 24
ANIMALS = ["emu", "cat", "dog"]  # in an order of its own
OFF = tuple(range(0, N, 6))  # samples that the weighted sampler never draws


@dataclass(frozen=True)
class Case:
    """A set-up, and what is known of it without asking torchloops.

    Args:
        module: makes the module.
        data: makes what a data module takes.
        inputs, labels: of all training samples; inputs as ``forward`` gets them, labels ``(n,)`` or ``(n, n_labels)``.
        test_inputs, test_labels: likewise of the test set.
        answer: what a prediction is, worked out from ``(weights, *inputs)``: probabilities ``(n, n_classes)`` or
            ``(n, n_labels)``, or numbers ``(n, 1)``; with members in a last dimension.
        step_answer: the same of what validation and test steps score. Default: ``answer``.
        form: "classes", "multilabel" or "numbers".
        outputs: what is to be on record.
        settings: of both data modules; loop: of both loops.
        splitter: makes scikit-learn's. Default: what the loop chooses by itself.
        heuristics: to ask by.
        names: of the classes, where labels are names.
        test_batch: makes one batch of the whole test set, as the module gets it. Default: inputs and labels.
    """

    module: Callable[[], nn.Module]
    data: Callable[[], Any]
    inputs: tuple[Tensor, ...]
    labels: Tensor
    test_inputs: tuple[Tensor, ...]
    test_labels: Tensor
    answer: Callable[..., Tensor]
    step_answer: Callable[..., Tensor] | None = None
    form: str = "classes"
    outputs: str = "logits"
    settings: dict[str, Any] = field(default_factory=dict)
    loop: dict[str, Any] = field(default_factory=dict)
    splitter: Callable[[], Any] | None = None
    heuristics: tuple[str, ...] = ("entropy",)
    names: list[str] | None = None
    test_batch: Callable[[], Any] | None = None

    def ask(self, weights: dict[str, Tensor], ids: Any = None, of_step: bool = False) -> Tensor:
        """Answers for training samples, ``(n, columns, members)``."""
        rows = self.inputs if ids is None else tuple(tensor[torch.as_tensor(ids)] for tensor in self.inputs)
        return self._ask(weights, rows, of_step)

    def ask_test(self, weights: dict[str, Tensor], of_step: bool = False) -> Tensor:
        """Answers for the test set, ``(n, columns, members)``."""
        return self._ask(weights, self.test_inputs, of_step)

    def _ask(self, weights: dict[str, Tensor], rows: tuple[Tensor, ...], of_step: bool) -> Tensor:
        work = self.step_answer if of_step and self.step_answer is not None else self.answer
        found = work(weights, *rows)
        return found if found.ndim == 3 else found[..., None]

    def whole_test_batch(self) -> Any:
        return [*self.test_inputs, self.test_labels] if self.test_batch is None else self.test_batch()


# by hand: scores, uncertainties, intervals


def judged(form: str, answers: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    """A value a sample by name: accuracy and log_loss, or mse and mae, of answers ``(n, columns)``."""
    values = answers.double().numpy()
    true = labels.double().numpy()
    if form == "classes":
        chosen = values[np.arange(len(values)), labels.numpy()]
        return {"accuracy": (values.argmax(1) == labels.numpy()).astype(float), "log_loss": -np.log(chosen)}
    if form == "multilabel":
        loss = -(true * np.log(values) + (1 - true) * np.log(1 - values))
        return {"accuracy": ((values > 0.5) == (true > 0.5)).mean(1), "log_loss": loss.mean(1)}
    difference = values[:, 0] - true
    return {"mse": difference**2, "mae": np.abs(difference)}


def uncertainty(name: str, form: str, answers: Tensor) -> np.ndarray:
    """A score a sample of answers ``(n, columns, members)``, high where a label is wanted first."""
    values = answers.double().numpy()
    if form == "numbers":
        return {"variance": values.var(-1), "mean_std": values.std(-1)}[name].mean(1)
    if form == "multilabel":
        each = [_of_classes(name, np.stack([1 - column, column], 1)) for column in values.swapaxes(0, 1)]
        return np.mean(each, axis=0)
    return _of_classes(name, values)


def _of_classes(name: str, values: np.ndarray) -> np.ndarray:
    mean = values.mean(-1)
    ordered = np.sort(mean, axis=1)
    if name == "entropy":
        return _entropy(mean)
    if name == "margin":
        return 1 - (ordered[:, -1] - ordered[:, -2])
    if name == "certainty":
        return 1 - ordered[:, -1]
    if name == "bald":
        return _entropy(mean) - _entropy(values).mean(-1)
    return {"variance": values.var(-1), "mean_std": values.std(-1)}[name].mean(1)


def _entropy(values: np.ndarray) -> np.ndarray:
    return -(values * np.log(np.clip(values, 1e-300, 1))).sum(1)


def nadeau_bengio(values: list[float], test_over_train: float) -> tuple[float, float]:
    from scipy.stats import t

    count = len(values)
    half = t.ppf(0.975, count - 1) * np.std(values, ddof=1) * np.sqrt(1 / count + test_over_train)
    return np.mean(values) - half, np.mean(values) + half


def bayle(values: list[np.ndarray]) -> tuple[float, float]:
    """Of per-sample values, an array a fold."""
    together = np.concatenate(values)
    half = 1.96 * np.sqrt(np.mean([fold.var(ddof=1) for fold in values])) / np.sqrt(len(together))
    return together.mean() - half, together.mean() + half


# runs


def train(folder: Any, loop: Any, module: Any, data: Any, *, inner: Any = None, seed: int = 0, **settings: Any) -> Any:
    """Fit under ``loop`` (None: the Trainer's own), with ``inner`` between it and the fit; returns the Trainer."""
    torch.manual_seed(seed)
    trainer = Trainer(**{**QUIET, "max_epochs": 2, "default_root_dir": folder, **settings})
    for outer in (inner, loop):
        if outer is not None:
            outer.connect(trainer.fit_loop)
            trainer.fit_loop = outer
    trainer.fit(module, data)
    return trainer


class Rounds:
    """What each round of a study left behind, taken at its end.

    Attributes:
        taken: a dict a round: ``run`` (name), ``weights``, ``pool`` and ``labelled`` (ids), ``row``.
        callback: goes to the Trainer; it may be copied, the list is one.
    """

    def __init__(self) -> None:
        taken: list[dict[str, Any]] = []

        class Take(Callback):
            def on_round_end(self, trainer: Any, module: Any, row: dict[str, Any]) -> None:
                taken.append(
                    {
                        "run": trainer.run_name, "row": dict(row), "weights": copy.deepcopy(module.state_dict()),
                        "pool": list(trainer.datamodule.pool_ids), "labelled": list(trainer.datamodule.labelled_ids),
                    }
                )  # fmt: skip

        self.taken = taken
        self.callback = Take()


# modules


class Judged(LoopModule):
    """Base of the modules: a loss to train, and two scores that validation and test steps log."""

    def read(self, batch: Any) -> tuple[tuple[Any, ...], Tensor]:
        """Inputs and labels of a batch."""
        return (batch[0],), batch[1]

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, labels)

    def scores(self, output: Tensor, labels: Tensor) -> dict[str, Tensor]:
        loss = nn.functional.cross_entropy(output, labels)
        return {"accuracy": (output.argmax(1) == labels).float().mean(), "log_loss": loss}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, labels = self.read(batch)
        return self.loss(self(*inputs), labels)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.judge("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.judge("test", batch)

    def judge(self, stage: str, batch: Any) -> None:
        inputs, labels = self.read(batch)
        for name, value in self.scores(self(*inputs), labels).items():
            self.log(f"{stage}/{name}", value)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.03)


class Layers(Judged):
    """Two layers, and what stands at their end."""

    def __init__(self, columns: int = 3, *end: nn.Module, inputs: int = 4) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, columns), *end)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def layers(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """What the two layers of `Layers` say."""
    hidden = (x @ weights["net.0.weight"].T + weights["net.0.bias"]).clamp_min(0)
    return hidden @ weights["net.2.weight"].T + weights["net.2.bias"]


def class_probabilities(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    return layers(weights, x).softmax(1)


class OneLogit(Layers):
    def __init__(self, *end: nn.Module) -> None:
        super().__init__(1, *end)

    def loss(self, output, labels):
        return nn.functional.binary_cross_entropy_with_logits(output[:, 0], labels.float())

    def scores(self, output, labels):
        return {"accuracy": ((output[:, 0] > 0) == (labels > 0)).float().mean(), "log_loss": self.loss(output, labels)}


class OneProbability(OneLogit):
    def __init__(self) -> None:
        super().__init__(nn.Sigmoid())

    def loss(self, output, labels):
        return nn.functional.binary_cross_entropy(output[:, 0], labels.float())

    def scores(self, output, labels):
        right = (output[:, 0] > 0.5) == (labels > 0)
        return {"accuracy": right.float().mean(), "log_loss": self.loss(output, labels)}


def two_columns(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    positive = layers(weights, x).sigmoid()
    return torch.cat([1 - positive, positive], 1)


class SoftmaxAtTheEnd(Layers):
    def __init__(self) -> None:
        super().__init__(3, nn.Softmax(dim=1))

    def loss(self, output, labels):
        return nn.functional.nll_loss(output.log(), labels)

    def scores(self, output, labels):
        return {"accuracy": (output.argmax(1) == labels).float().mean(), "log_loss": self.loss(output, labels)}


class ManyLabels(Layers):
    def loss(self, output, labels):
        return nn.functional.binary_cross_entropy_with_logits(output, labels)

    def scores(self, output, labels):
        right = (output > 0) == (labels > 0.5)
        return {"accuracy": right.float().mean(), "log_loss": self.loss(output, labels)}


class ManyProbabilities(ManyLabels):
    def __init__(self) -> None:
        super().__init__(3, nn.Sigmoid())

    def loss(self, output, labels):
        return nn.functional.binary_cross_entropy(output, labels)

    def scores(self, output, labels):
        right = (output > 0.5) == (labels > 0.5)
        return {"accuracy": right.float().mean(), "log_loss": self.loss(output, labels)}


def label_probabilities(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    return layers(weights, x).sigmoid()


class Regression(Layers):
    def __init__(self) -> None:
        super().__init__(1)

    def loss(self, output, labels):
        return nn.functional.mse_loss(output[:, 0], labels)

    def scores(self, output, labels):
        difference = output[:, 0] - labels
        return {"mse": difference.square().mean(), "mae": difference.abs().mean()}


class Masked(Judged):
    """The mean of the vectors of the words that a mask leaves, asked by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask[..., None].float()
        return self.head((self.words(input_ids) * mask).sum(1) / mask.sum(1))

    def read(self, batch):
        return (batch["input_ids"], batch["attention_mask"]), batch["labels"]


def masked_mean(weights: dict[str, Tensor], input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    shares = attention_mask / attention_mask.sum(1, keepdim=True)
    mean = torch.einsum("nt,ntd->nd", shares.float(), weights["words.weight"][input_ids])
    return (mean @ weights["head.weight"].T + weights["head.bias"]).softmax(1)


class Images(Layers):
    def __init__(self) -> None:
        super().__init__(3, inputs=16)

    def forward(self, x):
        return self.net(x.flatten(1).float())


def image_probabilities(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    return class_probabilities(weights, x.flatten(1))


class Colder(Layers):
    """`predict_step` turns the classes round and is less sure than ``forward``."""

    def predict_step(self, batch, batch_idx):
        return (self(batch[0]) / 3).softmax(1).flip(1)


def colder_probabilities(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    return (layers(weights, x) / 3).softmax(1).flip(1)


def mirrored(module: Any, batch: Any) -> Tensor:
    """Test-time augmentation: the mean over a sample and its mirror image."""
    return (module(batch[0]).softmax(1) + module(batch[0].flip(1)).softmax(1)) / 2


def mirrored_probabilities(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    return (class_probabilities(weights, x) + class_probabilities(weights, x.flip(1))) / 2


class Named(Layers):
    """Gets the names of the classes, as default_collate leaves them."""

    def read(self, batch):
        return (batch[0],), torch.tensor([ANIMALS.index(name) for name in batch[1]])


class Members(Judged):
    """Several linear models that train apart and answer below each other, ``(members * B, columns)``."""

    def __init__(self, members: int, columns: int) -> None:
        super().__init__()
        self.members = nn.ModuleList([nn.Linear(4, columns) for _ in range(members)])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([member(x) for member in self.members])

    def loss(self, output, labels):
        return nn.functional.cross_entropy(output, labels.repeat(len(self.members)))

    def scores(self, output, labels):
        mean = output.unflatten(0, (len(self.members), -1)).softmax(-1).mean(0)
        loss = nn.functional.nll_loss(mean.log(), labels)
        return {"accuracy": (mean.argmax(1) == labels).float().mean(), "log_loss": loss}


class RegressionMembers(Members):
    def __init__(self) -> None:
        super().__init__(3, 1)

    def loss(self, output, labels):
        return nn.functional.mse_loss(output[:, 0], labels.repeat(3))

    def scores(self, output, labels):
        difference = output[:, 0].unflatten(0, (3, -1)).mean(0) - labels
        return {"mse": difference.square().mean(), "mae": difference.abs().mean()}


def member_numbers(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    count = sum(name.endswith("bias") for name in weights)
    each = [x @ weights[f"members.{k}.weight"].T + weights[f"members.{k}.bias"] for k in range(count)]
    return torch.stack(each, -1)


def member_probabilities(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    return member_numbers(weights, x).softmax(1)


# data


def points(n: int = N, seed: int = 0) -> Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))


def noise(n: int, seed: int) -> Tensor:
    return 0.5 * torch.randn(n, generator=torch.Generator().manual_seed(100 + seed))


def three_classes(x: Tensor) -> Tensor:
    return (x[:, 0] > -0.4).long() + (x[:, 0] + x[:, 1] > 0.6).long()


class Words(Dataset):
    """Samples as a tokenizer makes them."""

    def __init__(self, n: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.input_ids = torch.randint(0, 20, (n, 7), generator=generator)
        lengths = torch.randint(2, 7, (n,), generator=generator)
        self.attention_mask = (torch.arange(7)[None] < lengths[:, None]).long()
        small = ((self.input_ids < 8) * self.attention_mask).sum(1)
        self.answers = (2 * small > lengths).long()  # of a name that says nothing

    def __len__(self):
        return len(self.input_ids)

    def __getitem__(self, index):
        return {
            "input_ids": self.input_ids[index], "attention_mask": self.attention_mask[index],
            "labels": int(self.answers[index]),
        }  # fmt: skip


class NamedSamples(Dataset):
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], ANIMALS[int(self.y[index])]


class Loaders(DataModule):
    """A data module of the loaders that are given."""

    def __init__(self, train: DataLoader, test: DataLoader | None = None) -> None:
        self.train, self.test = train, test

    def train_dataloader(self):
        return self.train

    def test_dataloader(self):
        return self.test


class ScaledImages(Loaders):
    """Images of bytes, scaled where a batch has reached its device."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [scaled(batch[0]), *batch[1:]]


def scaled(images: Tensor) -> Tensor:
    return (images.float() - 127) / 64


class Frame(Dataset):
    """A shuffled table that keeps its index, with its column of labels as an attribute."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        order = np.random.RandomState(0).permutation(len(x))
        table = pd.DataFrame(x.numpy(), columns=[f"x{k}" for k in range(x.shape[1])]).assign(y=y.numpy())
        self.frame = table.iloc[order]
        self.targets = self.frame["y"]
        self.order = order

    def __len__(self):
        return len(self.frame)

    def __getitem__(self, index):
        row = self.frame.iloc[index]
        return torch.tensor(row.iloc[:-1].to_numpy(dtype=np.float32)), int(row["y"])


# cases


def _simple(module: Any, answer: Any, labels: Callable[[Tensor], Tensor], **settings: Any) -> Case:
    """A TensorDataset of points, tested on another."""
    x, test_x = points(), points(N_TEST, 1)
    y, test_y = labels(x), labels(test_x)
    own = {"batch_size": 8, "test_dataset": TensorDataset(test_x, test_y)}
    return Case(
        module, lambda: TensorDataset(x, y), (x,), y, (test_x,), test_y, answer,
        **{**settings, "settings": {**own, **settings.get("settings", {})}},
    )  # fmt: skip


def case_int_labels() -> Case:
    return _simple(Layers, class_probabilities, three_classes, heuristics=("entropy", "margin", "certainty"))


def _few_positive(x: Tensor) -> Tensor:
    return (x[:, 0] + noise(len(x), 3) < 0.7).long()


def case_one_logit() -> Case:
    return _simple(OneLogit, two_columns, _few_positive, outputs="one_logit", heuristics=("entropy", "margin"))


def case_sigmoid_at_the_end() -> Case:
    asked = ("entropy", "margin", "certainty")
    return _simple(OneProbability, two_columns, _few_positive, outputs="one_probability", heuristics=asked)


def case_softmax_at_the_end() -> Case:
    asked = ("entropy", "certainty")
    return _simple(SoftmaxAtTheEnd, class_probabilities, three_classes, outputs="probabilities", heuristics=asked)


def _three_labels(x: Tensor) -> Tensor:
    return torch.stack([x[:, 0] > 0.3, x[:, 1] + noise(len(x), 4) > 0, x[:, 2] * x[:, 0] > 0], 1).float()


def case_multilabel() -> Case:
    return _simple(
        ManyLabels, label_probabilities, _three_labels, form="multilabel", outputs="multilabel_logits",
        heuristics=("entropy", "margin", "certainty"),
    )  # fmt: skip


def case_multilabel_sigmoid() -> Case:
    return _simple(
        ManyProbabilities, label_probabilities, _three_labels, form="multilabel", outputs="multilabel_probabilities"
    )


def _number(x: Tensor) -> Tensor:
    return x[:, 0] - 0.5 * x[:, 1] + noise(len(x), 5)


def case_regression() -> Case:
    return _simple(Regression, layers, _number, form="numbers", outputs="numbers", heuristics=())


def case_words_with_a_mask() -> Case:
    data, test = Words(N, 0), Words(N_TEST, 1)
    return Case(
        Masked, lambda: data, (data.input_ids, data.attention_mask), data.answers,
        (test.input_ids, test.attention_mask), test.answers, masked_mean,
        settings={"batch_size": 8, "test_dataset": test}, splitter=_stratified,
        test_batch=lambda: {"input_ids": test.input_ids, "attention_mask": test.attention_mask, "labels": test.answers},
        heuristics=("entropy", "margin"),
    )  # fmt: skip


def _stratified() -> Any:
    from sklearn.model_selection import StratifiedKFold

    return StratifiedKFold(3, shuffle=True, random_state=7)


def case_bytes_scaled_by_the_data_module() -> Case:
    generator = torch.Generator().manual_seed(2)
    parts = []
    for n in (N, N_TEST):
        images = torch.randint(0, 256, (n, 1, 4, 4), generator=generator, dtype=torch.uint8)
        parts.append((images, three_classes(scaled(images).flatten(1))))
    (x, y), (test_x, test_y) = parts
    loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
    test = DataLoader(TensorDataset(test_x, test_y), batch_size=10)
    return Case(
        Images, lambda: ScaledImages(loader, test), (scaled(x),), y, (scaled(test_x),), test_y, image_probabilities,
        heuristics=("entropy", "margin"),
    )  # fmt: skip


def case_test_time_augmentation() -> Case:
    return _simple(
        Layers, mirrored_probabilities, three_classes, step_answer=class_probabilities, outputs="probabilities",
        loop={"predict": mirrored}, heuristics=("entropy", "margin"),
    )  # fmt: skip


def case_predict_step() -> Case:
    return _simple(
        Colder, colder_probabilities, three_classes, step_answer=class_probabilities, outputs="probabilities",
        heuristics=("entropy", "certainty"),
    )  # fmt: skip


def case_names() -> Case:
    x, test_x = points(), points(N_TEST, 1)
    y, test_y = three_classes(x), three_classes(test_x)
    test = NamedSamples(test_x, test_y)
    return Case(
        Named, lambda: NamedSamples(x, y), (x,), y, (test_x,), test_y, class_probabilities, names=ANIMALS,
        settings={"batch_size": 8, "test_dataset": test, "classes": ANIMALS}, splitter=_stratified,
        test_batch=lambda: [test_x, [ANIMALS[int(label)] for label in test_y]], heuristics=("entropy", "margin"),
    )  # fmt: skip


def case_two_members() -> Case:
    return _simple(
        lambda: Members(2, 3), member_probabilities, three_classes, loop={"num_estimators": 2},
        heuristics=("entropy", "bald", "variance", "mean_std"),
    )  # fmt: skip


def case_three_members_of_regression() -> Case:
    return _simple(
        RegressionMembers, member_numbers, _number, form="numbers", outputs="numbers", loop={"num_estimators": 3},
        heuristics=("variance", "mean_std"),
    )  # fmt: skip


def case_weighted_sampler() -> Case:
    case = _simple(Layers, class_probabilities, three_classes)
    chances = torch.ones(N)
    chances[list(OFF)] = 0
    data = TensorDataset(case.inputs[0], case.labels)
    loader = DataLoader(data, batch_size=8, sampler=WeightedRandomSampler(chances.tolist(), N))
    test = DataLoader(case.settings["test_dataset"], batch_size=10)
    return Case(**{**vars(case), "data": lambda: Loaders(loader, test), "settings": {}})


def case_part_of_two_data_sets() -> Case:
    x, test_x = points(70, 6), points(N_TEST, 1)
    y, test_y = three_classes(x), three_classes(test_x)
    chosen = np.random.RandomState(1).permutation(70)[:N].tolist()
    both = ConcatDataset([TensorDataset(x[:30], y[:30]), TensorDataset(x[30:], y[30:])])
    return Case(
        Layers, lambda: Subset(both, chosen), (x[chosen],), y[chosen], (test_x,), test_y, class_probabilities,
        settings={"batch_size": 8, "test_dataset": TensorDataset(test_x, test_y)},
    )  # fmt: skip


def case_pandas_column() -> Case:
    x, test_x = points(), points(N_TEST, 1)
    y, test_y = three_classes(x), three_classes(test_x)
    frame = Frame(x, y)
    return Case(
        Layers, lambda: frame, (x[frame.order],), y[frame.order], (test_x,), test_y, class_probabilities,
        settings={"batch_size": 8, "test_dataset": TensorDataset(test_x, test_y)},
    )  # fmt: skip


CASES: dict[str, Callable[[], Case]] = {
    name.removeprefix("case_"): make for name, make in list(globals().items()) if name.startswith("case_")
}
