"""Data sets, data modules and modules as people have them, and what is right for each of them by plain PyTorch."""

import copy
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits, cross_entropy, nll_loss, one_hot
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset, default_collate

from torchloops import Callback, DataModule, LoopModule
from torchloops.data import RandomViewWarning, UnusedEntriesWarning

PLAIN, KFOLD, ACTIVE, GUIDED, NESTED = WAYS = ("plain", "kfold", "active", "guided", "nested")
OUTER = (KFOLD, ACTIVE, NESTED)  # those that ask the module for answers
FLAT = (PLAIN, KFOLD, ACTIVE, GUIDED)

N, FOLDS, MEMBERS = 36, 3, 2
NAMES = ["ant", "bee", "cat"]
_drawn = torch.Generator().manual_seed(3)
Y = torch.tensor([0] * 18 + [1] * 12 + [2] * 6)[torch.randperm(N, generator=_drawn)]
BINARY = (Y > 0).long()
X = torch.randn(N, 4, generator=_drawn)
X[:, 1] += Y
MULTI = torch.stack([X[:, 1] > 0.5, X[:, 2] > 0, X[:, 3] > 0.5], 1).float()
NUMBERS = X @ torch.tensor([0.5, -1.0, 2.0, 0.0]) + 3
TOKENS = torch.cat([torch.arange(N)[:, None], torch.randint(0, N, (N, 5), generator=_drawn)], 1)
MASK = (torch.rand(N, 6, generator=_drawn) < 0.5).long()
MASK[:, 0] = 1
WEIGHTS = torch.rand(N, generator=_drawn)
ORDER = torch.randperm(N, generator=_drawn).tolist()

# what happened, noted outside of modules and callbacks, which a fold or round starts afresh


class Seen(NamedTuple):
    """A batch as ``training_step`` got it."""

    run: str
    training: bool  # False in a guide pass
    batch: Any


SEEN: list[Seen] = []
ROUNDS: dict[tuple[str, int], dict[str, torch.Tensor]] = {}  # (run, round) to the weights at the end of the round
NOTES: list[Any] = []


def forget():
    """Nothing has happened."""
    SEEN.clear()
    ROUNDS.clear()
    NOTES.clear()


class KeepRounds(Callback):
    """Puts the weights at the end of every round into `ROUNDS`."""

    def on_round_end(self, trainer, module, row):
        weights = copy.deepcopy(module.state_dict())
        ROUNDS[trainer.run_name, row["round"]] = weights


_ID_OF = {value: index for index, value in enumerate(X[:, 0].tolist())}


def ids_of(inputs):
    """Sample ids of rows of `X`, by their first entry, or of `TOKENS`, whose first entry is the id."""
    first = inputs[:, 0].tolist()
    return [value if isinstance(value, int) else _ID_OF[value] for value in first]


def plain(values):
    """A batch of labels as a list."""
    return values.tolist() if isinstance(values, torch.Tensor) else list(values)


# data


class Items(Dataset):
    """``item(i)`` for each sample, and attributes as they are given."""

    def __init__(self, item, size=N, **attributes):
        self.item, self.size = item, size
        self.__dict__.update(attributes)

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if not 0 <= index < self.size:
            raise IndexError(index)
        return self.item(int(index))


class Loaded(DataModule):
    """A data module over a training set, with the loader's settings."""

    def __init__(self, dataset, batch_size=16, test=None, **options):
        self.dataset, self.batch_size, self.test = dataset, batch_size, test
        self.options = options if "sampler" in options else {"shuffle": True, **options}

    def train_dataloader(self):
        return DataLoader(self.dataset, self.batch_size, **self.options)

    def test_dataloader(self):
        return self.test


class Given(DataModule):
    """A data module of loaders, or of functions that make them."""

    def __init__(self, train, val=None, test=None):
        self.loaders = {"train": train, "val": val, "test": test}

    def _loader(self, name):
        given = self.loaders[name]
        return given() if callable(given) else given

    def train_dataloader(self):
        return self._loader("train")

    def val_dataloader(self):
        return self._loader("val")

    def test_dataloader(self):
        return self._loader("test")


class Halving(Loaded):
    """Each of the three transfer hooks halves the inputs."""

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return halved(batch)

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return halved([part.to(device) for part in batch])

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return halved(batch)


def halved(batch):
    return [batch[0] / 2, *batch[1:]]


Point = namedtuple("Point", ["x", "y"])


def dict_batch(samples):
    """A collate function that makes what models from a hub take."""
    return {"inputs": torch.stack([x for x, _ in samples]), "labels": torch.stack([y for _, y in samples])}


def mixed(samples):
    """MixUp: each sample with its neighbour, labels likewise."""
    inputs, labels = default_collate(samples)
    share = 0.2 + 0.6 * torch.rand(())
    soft = one_hot(labels, 3).float()
    return share * inputs + (1 - share) * inputs.roll(1, 0), share * soft + (1 - share) * soft.roll(1, 0)


def noisy(i):
    """A sample with an augmentation that leaves its first entry alone."""
    return X[i] + torch.tensor([0.0, 5.0, 5.0, 5.0]) * torch.randn(4), Y[i]


def tensors(*columns):
    return lambda: TensorDataset(*columns)


# modules


def names_loss(outputs, names):
    return cross_entropy(outputs, torch.tensor([NAMES.index(name) for name in names]))


def logit_loss(outputs, labels):
    return binary_cross_entropy_with_logits(outputs.reshape(-1), labels.reshape(-1).float())


def probability_loss(outputs, labels):
    return binary_cross_entropy(outputs.reshape(-1), labels.reshape(-1).float())


def share_loss(outputs, labels):
    return nll_loss(outputs.log(), labels)


def square_loss(outputs, labels):
    return (outputs.reshape(labels.shape) - labels).square().mean()


def members_loss(outputs, labels):
    return cross_entropy(outputs, labels.repeat(MEMBERS))


class Net(LoopModule):
    """A linear model whose training batches go to `SEEN`."""

    def __init__(self, columns=3, loss=cross_entropy, end=None, net=None, rate=0.1):
        super().__init__()
        self.net = nn.Linear(4, columns) if net is None else net
        self.loss, self.end, self.rate = loss, end, rate

    def forward(self, x):
        return self.net(x) if self.end is None else self.end(self.net(x))

    def ask(self, batch):
        return self(batch[0])

    def label(self, batch):
        return batch[1]

    def loss_of(self, batch):
        return self.loss(self.ask(batch), self.label(batch))

    def training_step(self, batch, batch_idx):
        SEEN.append(Seen(self.trainer.run_name, self.training, batch))
        return self.loss_of(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss_of(batch))

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.loss_of(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate)


class HalvingNet(Net):
    """Each of the three transfer hooks halves the inputs."""

    on_before_batch_transfer = Halving.on_before_batch_transfer
    transfer_batch_to_device = Halving.transfer_batch_to_device
    on_after_batch_transfer = Halving.on_after_batch_transfer


class Keyed(Net):
    """Takes one entry of a dict by keyword."""

    def forward(self, inputs):
        return self.net(inputs)

    def ask(self, batch):
        return self(batch["inputs"])

    def label(self, batch):
        return batch["labels"]


class Species(Keyed):
    """Its label has a name of its own."""

    def label(self, batch):
        return batch["species"]


class WholeDict(Keyed):
    """Takes a dict; notes its keys where it is asked."""

    def forward(self, batch):
        NOTES.append(set(batch))
        return self.net(batch["inputs"])

    def ask(self, batch):
        return self({"inputs": batch["inputs"]})


class AnyKeyword(Keyed):
    """Takes whatever it is given by keyword; notes it."""

    def forward(self, **entries):
        NOTES.append(set(entries))
        return self.net(entries["inputs"])

    def ask(self, batch):
        return self(inputs=batch["inputs"])


class TwoKeys(Keyed):
    """Takes two entries of a dict."""

    def forward(self, left, right):
        return self.net(torch.cat([left, right], 1))

    def ask(self, batch):
        return self(batch["left"], batch["right"])

    def label(self, batch):
        return batch["y"]


class Masked(Net):
    """The mean of embeddings where a mask is 1; of all of them where none is given."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(N, 4)

    def forward(self, tokens, mask=None):
        mask = torch.ones_like(tokens) if mask is None else mask
        return self.net((self.table(tokens) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))

    def ask(self, batch):
        return self(batch[0], batch[1])

    def label(self, batch):
        return batch[2]


class Transformer(Masked):
    """Takes a tokenizer's dict; gives a loss where labels are in it."""

    def forward(self, input_ids, attention_mask=None, labels=None):
        outputs = super().forward(input_ids, attention_mask)
        return outputs if labels is None else cross_entropy(outputs, labels)

    def ask(self, batch):
        return self(batch["input_ids"], batch["attention_mask"])

    def label(self, batch):
        return batch["labels"]


class Weighing(Net):
    """The third entry of a sample weighs its loss."""

    def loss_of(self, batch):
        return (cross_entropy(self(batch[0]), batch[1], reduction="none") * batch[2]).mean()


class Turned(Net):
    """``predict_step`` turns the order of the classes round."""

    def predict_step(self, batch, batch_idx=0, dataloader_idx=0):
        return self(batch[0]).softmax(1).flip(1)


class Members(Net):
    """Two models; every sample has two rows, those of the second member after all of the first's."""

    def __init__(self, columns=3, loss=members_loss):
        super().__init__(columns, loss)
        self.other = nn.Linear(4, columns)

    def forward(self, x):
        return torch.cat([self.net(x), self.other(x)])


def turned(module, batch):
    return module(batch[0]).softmax(1).flip(1)


def double_ask(module, batch):
    """Two inputs of one sample, from a tuple."""
    return module(torch.cat([batch[0], batch[1]], 1))


class Joined(Net):
    """Is asked for entries 0 and 1 of a tuple at once, which only a function of its own can know."""

    def ask(self, batch):
        return double_ask(self, batch)

    def label(self, batch):
        return batch[2]


class Probit(Net):
    """A probability that is no sigmoid."""

    def forward(self, x):
        return 0.5 + 0.5 * torch.erf(self.net(x))


def small_logits():
    """All logits lie between 0 and 1, whatever is trained."""
    module = Net(1, logit_loss, rate=1e-4)
    with torch.no_grad():
        module.net.weight.mul_(0.1)
        module.net.bias.fill_(0.5)
    return module


def logits_that_sum_to_one():
    """Logits that look like probabilities, whatever is trained."""
    module = Net(rate=0.0)
    with torch.no_grad():
        module.net.weight.mul_(0.02)
        module.net.weight.sub_(module.net.weight.mean(0, keepdim=True))
        module.net.bias.copy_(torch.tensor([0.5, 0.3, 0.2]))
    return module


# what is right


def probabilities_of(raw, outputs):
    """Probabilities ``(n, n_columns)`` of a model's answers, or numbers, by their meaning."""
    if outputs == "logits":
        return raw.softmax(1)
    if outputs in ("one_logit", "one_probability"):
        one = raw.reshape(-1)
        one = one.sigmoid() if outputs == "one_logit" else one
        return torch.stack([1 - one, one], 1)
    if outputs == "multilabel_logits":
        return raw.sigmoid()
    return raw[:, None] if raw.ndim == 1 else raw


def entropy(draws):
    p = draws.mean(0)
    return torch.special.entr(p).sum(1)


def binary_entropy(draws):
    p = draws.mean(0)
    return (torch.special.entr(p) + torch.special.entr(1 - p)).mean(1)


def margin(draws):
    best = draws.mean(0).sort(1, descending=True).values
    return best[:, 1] - best[:, 0]


def bald(draws):
    return entropy(draws) - torch.special.entr(draws).sum(2).mean(0)


def variance(draws):
    return draws.var(0).mean(1)


@dataclass(frozen=True)
class Situation:
    """Data and a module, and what is right for them.

    Args:
        name: as it reads in the table.
        data: gives a data set or a data module.
        module: gives the module.
        labels: what a batch hands over, by sample id.
        outputs: what the module's answers mean.
        ask: the module's answers for sample ids, by hand.
        seen: ids and labels of a training batch.
        prepare: what transfer hooks make of a batch; None: there are none.
        classes: class index by sample id; None where samples have no single class.
        settings: of both data modules.
        loop: of both loops.
        collate_fn: of the loader.
        warning: the warning in those ways that ask the module.
        heuristic, score: how active learning asks, by name and by hand; no ``score``: nothing to compare.
        members: rows of a sample in the module's answers.
        target_key: that the guide loop needs.
        names: the classes' names where labels are names.
        ways: of using it.
    """

    name: str
    data: Callable[[], Any]
    module: Callable[[], nn.Module] = Net
    labels: Any = field(default_factory=Y.tolist)
    outputs: str = "logits"
    ask: Callable[[Any, list[int]], Any] = lambda module, ids: module(X[ids])
    seen: Callable[[Any], Any] = lambda batch: (ids_of(batch[0]), plain(batch[1]))
    prepare: Callable[[Any], Any] | None = None
    classes: Any = field(default_factory=Y.tolist)
    settings: dict = field(default_factory=dict)
    loop: dict = field(default_factory=dict)
    collate_fn: Any = None
    warning: type | None = None
    heuristic: str = "entropy"
    score: Any = entropy
    members: int = 1
    names: Any = None
    ways: tuple = WAYS

    def draws(self, weights, ids):
        """Probabilities, or numbers, ``(members, n, n_columns)`` of the module with these weights, in evaluation."""
        module = self.by_hand(weights)
        with torch.no_grad():
            raw = self.ask(module, list(ids))
        return torch.stack([probabilities_of(part, self.outputs) for part in raw.chunk(self.members)])

    def by_hand(self, weights):
        module = self.module()
        module.load_state_dict(weights)
        return module.eval()

    def loss(self, weights, ids):
        """The module's loss on these samples as one batch."""
        view = self.settings.get("eval_dataset", self.raw_items())
        collate = self.settings.get("eval_collate_fn", self.collate_fn if self.seen else None) or default_collate
        batch = collate([view[i] for i in ids])
        batch = batch if self.prepare is None else self.prepare(batch)
        with torch.no_grad():
            return float(self.by_hand(weights).loss_of(batch))

    def datamodule(self, **options):
        """The data as a data module, with the loader's settings."""
        data = self.data()
        collate = {} if self.collate_fn is None else {"collate_fn": self.collate_fn}
        return data if isinstance(data, DataModule) else Loaded(data, **collate, **options)

    def raw_items(self):
        """The samples themselves."""
        data = self.data()
        return data.dataset if isinstance(data, DataModule) else data

    def raw(self):
        """The data as a data set where that says all."""
        return self.datamodule() if self.collate_fn is not None else self.data()


def _column(index):
    """A pandas column in another order than its index."""
    return pd.Series(Y.numpy(), index=index)


def _by_keys(entry="inputs", label="labels"):
    return lambda batch: (ids_of(batch[entry]), plain(batch[label]))


def _masked(module, ids):
    return module(TOKENS[ids], MASK[ids])


def _halved_thrice(batch):
    return halved(halved(halved(batch)))


_BINARY = {"labels": BINARY.tolist(), "classes": BINARY.tolist()}
_PAIR = ConcatDataset([TensorDataset(X[:20], Y[:20]), TensorDataset(X[20:], Y[20:])])
_LONGER = TensorDataset(torch.cat([torch.zeros(5, 4), X]), torch.cat([torch.full((5,), 2), Y]))

CONTAINERS = [
    Situation("tensors", tensors(X, Y)),
    Situation("subset_of_subset", lambda: Subset(Subset(_LONGER, [*range(4, 41), 0]), range(1, 37)), ways=FLAT),
    Situation("concat", lambda: _PAIR),
    Situation(
        "concat_of_two_kinds",
        lambda: ConcatDataset(
            [Items(lambda i: (X[i], Y[i]), 20, targets=[0] * 20), Items(lambda i: (X[i + 20], Y[i + 20]), 16)]
        ),
        ways=(KFOLD, ACTIVE, GUIDED),
    ),
    Situation(
        "dict_samples", lambda: Items(lambda i: {"inputs": X[i], "labels": Y[i]}), Keyed,
        ask=lambda module, ids: module(inputs=X[ids]), seen=_by_keys(),
    ),
    Situation(
        "dict_with_target_key", lambda: Items(lambda i: {"inputs": X[i], "species": Y[i], "label": BINARY[i]}),
        Species, ask=lambda module, ids: module(inputs=X[ids]), seen=_by_keys(label="species"),
        settings={"target_key": "species"}, warning=UnusedEntriesWarning,
    ),
    Situation(
        "namedtuple_samples", lambda: Items(lambda i: Point(X[i], Y[i])),
        seen=lambda batch: (ids_of(batch.x), plain(batch.y)),
        ways=FLAT,
    ),
    Situation("dict_collate", tensors(X, Y), Keyed, collate_fn=dict_batch, seen=_by_keys()),
    Situation(
        "column_of_another_index", lambda: Items(lambda i: (X[i], int(Y[i])), targets=_column(ORDER)),
    ),
    Situation(
        "column_of_a_filtered_frame", lambda: Items(lambda i: (X[i], int(Y[i])), targets=_column(range(1, 2 * N, 2))),
        ways=FLAT,
    ),
    Situation(
        "target_transform", lambda: Items(lambda i: (X[i], 2 - int(Y[i])), targets=Y.tolist()),
        labels=(2 - Y).tolist(), classes=(2 - Y).tolist(),
    ),
    Situation(
        "target_transform_of_one_class", lambda: Items(lambda i: (X[i], int(BINARY[i])), targets=Y.tolist()),
        lambda: Net(2), **_BINARY,
    ),
    Situation("samples_attribute", lambda: Items(lambda i: (X[i], int(Y[i])), samples=[("", int(y)) for y in Y]),
              ways=FLAT),
    Situation(
        "third_tensor", tensors(X, Y, WEIGHTS), Weighing, warning=UnusedEntriesWarning,
    ),
    Situation(
        "third_tensor_of_ids", tensors(X, Y, torch.arange(N)), warning=UnusedEntriesWarning,
        ways=FLAT,
    ),
]  # fmt: skip

INPUTS = [
    Situation(
        "mask", tensors(TOKENS, MASK, Y), Masked, ask=_masked, settings={"target_key": 2},
        seen=lambda batch: (ids_of(batch[0]), plain(batch[2])),
    ),
    Situation(
        "transformer_dict",
        lambda: Items(lambda i: {"input_ids": TOKENS[i], "attention_mask": MASK[i], "labels": Y[i]}), Transformer,
        ask=lambda module, ids: module(input_ids=TOKENS[ids], attention_mask=MASK[ids]), seen=_by_keys("input_ids"),
    ),
    Situation(
        "two_keys", lambda: Items(lambda i: {"left": X[i, :2], "right": X[i, 2:], "y": Y[i]}), TwoKeys,
        ask=lambda module, ids: module(X[ids, :2], X[ids, 2:]), seen=_by_keys("left", "y"),
        ways=FLAT,
    ),
    Situation(
        "any_keyword", lambda: Items(lambda i: {"inputs": X[i], "labels": Y[i]}), AnyKeyword,
        ask=lambda module, ids: module(inputs=X[ids]), seen=_by_keys(),
    ),
    Situation(
        "whole_dict", lambda: Items(lambda i: {"inputs": X[i], "labels": Y[i]}), WholeDict,
        ask=lambda module, ids: module({"inputs": X[ids]}), seen=_by_keys(),
    ),
    Situation("predict_function", tensors(X, Y), loop={"predict": turned}, outputs="probabilities",
              ask=lambda module, ids: module(X[ids]).softmax(1).flip(1), ways=OUTER),
    Situation("predict_function_of_the_whole_batch", tensors(X[:, :2], X[:, 2:], Y), Joined,
              loop={"predict": double_ask}, settings={"target_key": 2},
              seen=lambda batch: (ids_of(batch[0]), plain(batch[2])), ways=(KFOLD, ACTIVE, GUIDED)),
    Situation("predict_step", tensors(X, Y), Turned, outputs="probabilities",
              ask=lambda module, ids: module(X[ids]).softmax(1).flip(1), ways=OUTER),
    Situation("hooks_of_the_module", tensors(8 * X, Y), HalvingNet, prepare=_halved_thrice),
    Situation("hooks_of_the_data_module", lambda: Halving(TensorDataset(8 * X, Y)), prepare=_halved_thrice),
]  # fmt: skip

LABELS = [
    Situation(
        "names", lambda: Items(lambda i: (X[i], NAMES[Y[i]])), lambda: Net(loss=names_loss), names=NAMES,
        labels=[NAMES[y] for y in Y], settings={"classes": NAMES},
    ),
    Situation(
        "names_and_no_classes", lambda: Items(lambda i: (X[i], NAMES[Y[i]])), lambda: Net(loss=names_loss), names=NAMES,
        labels=[NAMES[y] for y in Y], ways=(ACTIVE,),
    ),
    Situation(
        "names_beside_indices", lambda: Items(lambda i: (X[i], int(Y[i])), targets=[NAMES[y] for y in Y]),
    ),
    Situation("bools", tensors(X, BINARY.bool()), lambda: Net(2, lambda o, y: cross_entropy(o, y.long())),
              ways=FLAT, **_BINARY),
    Situation("one_hot", tensors(X, one_hot(Y, 3).float()), labels=one_hot(Y, 3).tolist()),
    Situation("float_zeros_and_ones", tensors(X, BINARY.float()), lambda: Net(1, logit_loss), outputs="one_logit",
              **_BINARY),
    Situation("a_column_of_zeros_and_ones", tensors(X, BINARY[:, None].float()), lambda: Net(1, logit_loss),
              outputs="one_logit", labels=BINARY[:, None].tolist(), classes=BINARY.tolist()),
    Situation("multilabel", tensors(X, MULTI), lambda: Net(3, logit_loss), labels=MULTI.tolist(), classes=None,
              outputs="multilabel_logits", score=binary_entropy),
    Situation("numbers", tensors(X, NUMBERS), lambda: Net(1, square_loss), labels=NUMBERS.tolist(), classes=None,
              outputs="numbers", heuristic="random", score=None),
    Situation("several_numbers", tensors(X, X[:, 1:3] * 2), lambda: Net(2, square_loss), classes=None,
              labels=(X[:, 1:3] * 2).tolist(), outputs="numbers", heuristic="random", score=None, ways=(KFOLD, ACTIVE)),
    Situation("numpy_integers", lambda: Items(lambda i: (X[i], Y.numpy()[i])), ways=(KFOLD, ACTIVE, GUIDED)),
    Situation("a_class_that_no_sample_has", tensors(X, BINARY), lambda: Net(3), settings={"classes": NAMES},
              ways=(KFOLD, ACTIVE), **_BINARY),
]  # fmt: skip

ANSWERS = [
    Situation("one_logit", tensors(X, BINARY), lambda: Net(1, logit_loss), outputs="one_logit", heuristic="margin",
              score=margin, ways=OUTER, **_BINARY),
    Situation("one_logit_as_a_vector", tensors(X, BINARY), lambda: Net(1, logit_loss, lambda h: h.squeeze(1)),
              outputs="one_logit", ways=(KFOLD, ACTIVE), **_BINARY),
    Situation("small_logits", tensors(X, BINARY), small_logits, outputs="one_logit", ways=OUTER, **_BINARY),
    Situation("sigmoid_module", tensors(X, BINARY),
              lambda: Net(loss=probability_loss, net=nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())),
              outputs="one_probability", ways=(KFOLD, ACTIVE), **_BINARY),
    Situation("sigmoid_function", tensors(X, BINARY), lambda: Net(1, probability_loss, torch.sigmoid),
              outputs="one_probability", heuristic="margin", score=margin, ways=OUTER, **_BINARY),
    Situation("sigmoid_as_a_vector", tensors(X, BINARY),
              lambda: Net(1, probability_loss, lambda h: h.sigmoid().squeeze(-1)),
              outputs="one_probability", ways=(KFOLD, ACTIVE), **_BINARY),
    Situation("clamp_after_sigmoid", tensors(X, BINARY),
              lambda: Net(1, probability_loss, lambda h: h.sigmoid().clamp(1e-4, 1 - 1e-4)),
              outputs="one_probability", ways=(KFOLD, ACTIVE), **_BINARY),
    Situation("one_probability_by_argument", tensors(X, BINARY), lambda: Probit(1, probability_loss),
              loop={"outputs": "one_probability"}, outputs="one_probability", ways=(KFOLD, ACTIVE), **_BINARY),
    Situation("softmax_module", tensors(X, Y),
              lambda: Net(loss=share_loss, net=nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1))),
              outputs="probabilities", ways=(KFOLD, ACTIVE)),
    Situation("softmax_function", tensors(X, Y), lambda: Net(3, share_loss, lambda h: h.softmax(-1)),
              outputs="probabilities", heuristic="margin", score=margin, ways=OUTER),
    Situation("exponentials_of_log_softmax", tensors(X, Y),
              lambda: Net(3, share_loss, lambda h: h.log_softmax(1).exp()), outputs="probabilities",
              ways=(KFOLD, ACTIVE)),
    Situation("normalised_sigmoids", tensors(X, Y),
              lambda: Net(3, share_loss, lambda h: h.sigmoid() / h.sigmoid().sum(1, keepdim=True)),
              outputs="probabilities", ways=(KFOLD, ACTIVE)),
    Situation("a_sigmoid_and_the_rest", tensors(X, BINARY),
              lambda: Net(1, share_loss, lambda h: torch.cat([1 - h.sigmoid(), h.sigmoid()], 1)),
              outputs="probabilities", ways=(KFOLD, ACTIVE), **_BINARY),
    Situation("logits_that_sum_to_one", tensors(X, Y), logits_that_sum_to_one, ways=OUTER),
    Situation("log_softmax", tensors(X, Y), lambda: Net(3, nll_loss, lambda h: h.log_softmax(1)), ways=(KFOLD, ACTIVE)),
    Situation("logits_by_argument", tensors(X, Y), lambda: Net(3, nll_loss, lambda h: h.log_softmax(1)),
              loop={"outputs": "logits"}, ways=(KFOLD, ACTIVE)),
    Situation("to_probabilities", tensors(X, Y), loop={"to_probabilities": lambda raw: (raw / 4).softmax(1)},
              ask=lambda module, ids: (module(X[ids]) / 4).softmax(1), outputs="probabilities", ways=(KFOLD, ACTIVE)),
    Situation("multilabel_sigmoid", tensors(X, MULTI), lambda: Net(3, probability_loss, torch.sigmoid),
              labels=MULTI.tolist(), classes=None, outputs="multilabel_probabilities", score=binary_entropy,
              ways=OUTER),
    Situation("rows_of_members", tensors(X, Y), Members, loop={"num_estimators": MEMBERS}, members=MEMBERS, ways=OUTER),
    Situation("rows_of_members_as_draws", tensors(X, Y), Members, loop={"num_estimators": MEMBERS}, members=MEMBERS,
              heuristic="bald", score=bald, ways=(ACTIVE, NESTED)),
    Situation("one_logit_of_members", tensors(X, BINARY),
              lambda: Members(1, lambda o, y: logit_loss(o, y.repeat(MEMBERS))), outputs="one_logit",
              loop={"num_estimators": MEMBERS}, members=MEMBERS, heuristic="bald", score=bald, ways=(KFOLD, ACTIVE),
              **_BINARY),
    Situation("labels_of_members", tensors(X, MULTI),
              lambda: Members(3, lambda o, y: logit_loss(o, y.repeat(MEMBERS, 1))), outputs="multilabel_logits",
              loop={"num_estimators": MEMBERS}, members=MEMBERS, labels=MULTI.tolist(), classes=None,
              score=binary_entropy, ways=(KFOLD, ACTIVE)),
    Situation("numbers_of_members", tensors(X, NUMBERS),
              lambda: Members(1, lambda o, y: square_loss(o, y.repeat(MEMBERS))), labels=NUMBERS.tolist(), classes=None,
              outputs="numbers", loop={"num_estimators": MEMBERS}, members=MEMBERS, heuristic="variance",
              score=variance, ways=(KFOLD, ACTIVE)),
]  # fmt: skip

VIEWS = [
    Situation("augmented_with_eval_dataset", lambda: Items(noisy), settings={"eval_dataset": TensorDataset(X, Y)},
              ways=OUTER),
    Situation("mixup_with_eval_collate_fn", tensors(X, Y), collate_fn=mixed, seen=None,
              settings={"eval_collate_fn": default_collate}, ways=(KFOLD, ACTIVE)),
    Situation("mixup", tensors(X, Y), collate_fn=mixed, seen=None, warning=RandomViewWarning, ways=OUTER),
]  # fmt: skip

# dropout that drops nothing: several draws, whichever way they are made, are those of a model without it
_DRAWS = {"loop": {"inference_iteration": 3}, "ways": (ACTIVE,)}
_NO_RATE = 1e-12


def drawing(make):
    """A module with dropout that drops nothing."""

    def made():
        module = make()
        module.net = nn.Sequential(nn.Dropout(_NO_RATE), module.net)
        return module

    return made


DRAWS = [
    replace(situation, name=f"{situation.name}_in_draws", module=drawing(situation.module), **_DRAWS)
    for situation in CONTAINERS + INPUTS + ANSWERS
    if situation.name
    in ("tensors", "dict_samples", "mask", "transformer_dict", "any_keyword", "whole_dict", "predict_step",
        "third_tensor", "hooks_of_the_module", "hooks_of_the_data_module", "one_logit_as_a_vector", "sigmoid_function")
]  # fmt: skip

SITUATIONS = CONTAINERS + INPUTS + LABELS + ANSWERS + VIEWS + DRAWS


# modules and data modules that note what they see


class Scheduled(Net):
    """Halves its own learning rate after every epoch, and leaves traces of other kinds."""

    def __init__(self):
        super().__init__(rate=0.5)
        self.history = []

    def on_train_start(self):
        NOTES.append((self.trainer.run_name, self.rate, len(self.history), hasattr(self, "extra")))

    def on_train_epoch_end(self):
        self.rate /= 2
        self.history.append(self.rate)
        self.extra = True


class Prebuilt(Net):
    """Its optimizer and its scheduler are made once, outside of ``configure_optimizers``."""

    def __init__(self):
        super().__init__()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        self.recipe = [self.optimizer], [torch.optim.lr_scheduler.StepLR(self.optimizer, 1, gamma=0.1)]

    def configure_optimizers(self):
        return self.recipe

    def on_train_epoch_start(self):
        optimizer = self.trainer.optimizers[0]
        rate = round(optimizer.param_groups[0]["lr"], 6)
        NOTES.append((self.trainer.run_name, rate, len(optimizer.state)))


class MadeThere(Prebuilt):
    """The same, made in ``configure_optimizers``."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)]


class Dense(Net):
    """Three classes at every of six places, ``(B, 3, 6)``."""

    def __init__(self, p=0.0):
        super().__init__(net=nn.Sequential(nn.Linear(4, 18), nn.Dropout(p), nn.Unflatten(1, (3, 6))))


class Autoencoder(Net):
    """Its outputs are inputs."""

    def __init__(self):
        super().__init__(4)

    def loss_of(self, batch):
        return (self(batch[0]) - batch[0]).square().mean()


class Answering(Net):
    """Answers as many models do that say more than one thing."""

    def forward(self, x):
        return {"logits": self.net(x)}

    def ask(self, batch):
        return self(batch[0])["logits"]


class Balanced(Net):
    """Takes the weights of classes from the data module of the fit."""

    def loss_of(self, batch):
        return cross_entropy(self(batch[0]), batch[1], weight=self.trainer.datamodule.class_weights)


class Examined(Net):
    """Notes which samples it is tested on."""

    def test_step(self, batch, batch_idx):
        NOTES.extend(ids_of(batch[0]))


class Splitting(DataModule):
    """``setup`` splits, whenever it is called."""

    def __init__(self):
        self.stages, self.prepared, self.torn_down = [], 0, []
        self.class_weights = torch.ones(3)

    def prepare_data(self):
        self.prepared += 1

    def setup(self, stage):
        self.stages.append(stage)
        self.train, self.test = torch.utils.data.random_split(TensorDataset(X, Y), [27, 9])

    def teardown(self, stage):
        self.torn_down.append(stage)

    def train_dataloader(self):
        return DataLoader(self.train, 16, shuffle=True)

    def test_dataloader(self):
        return DataLoader(self.test, 16)

    def state_dict(self):
        return {"mine": 7}

    def load_state_dict(self, state_dict):
        NOTES.append(state_dict)


class StageByStage(Splitting):
    """``setup`` makes what its stage needs."""

    def setup(self, stage):
        self.stages.append(stage)
        if stage == "fit":
            self.train = TensorDataset(X[:27], Y[:27])
        if stage == "test":
            self.test = TensorDataset(X[27:], Y[27:])


class Backwards(torch.utils.data.Sampler):
    """A sampler that nobody knows."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __iter__(self):
        return iter(range(len(self.data) - 1, -1, -1))


class Binned:
    """A splitter of one's own: folds that are stratified by bins of a number, or by the first of several labels."""

    def __init__(self, n_splits):
        self.n_splits = n_splits

    def get_n_splits(self, inputs=None, labels=None, groups=None):
        return self.n_splits

    def split(self, inputs, labels=None, groups=None):
        values = np.asarray(labels)
        NOTES.append(values)
        order = np.argsort(values if values.ndim == 1 else values[:, 0], kind="stable")
        for fold in range(self.n_splits):
            yield np.sort(np.delete(order, np.s_[fold :: self.n_splits])), np.sort(order[fold :: self.n_splits])


class MultilabelStratified(Binned):
    """Another, whose name says that it is stratified."""


def do_nothing(worker):
    """For every worker."""
