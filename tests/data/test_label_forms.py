"""Forms of labels that a few samples do not show, labels by value in every form, and labels that are no values."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot
from torch.utils.data import Dataset, TensorDataset

from torchloops import ActiveLearningDataModule, ActiveLearningLoop, KFoldDataModule, KFoldLoop, LoopModule
from torchloops.errors import ConfigurationError, DataError

N = 30
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(N) % 3
SEVERAL = torch.eye(3)[CLASSES]
SEVERAL[15:, 0] = 1.0  # the later half has more than one
BATCHES: list = []


class Net(LoopModule):
    def __init__(self, loss=cross_entropy):
        super().__init__()
        self.layer, self.loss = nn.Linear(4, 3), loss

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, batch_idx):
        BATCHES.append(batch)
        return self.loss(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(autouse=True)
def no_batches():
    BATCHES.clear()


def fit(make_trainer, loop, module, data):
    trainer = make_trainer(max_epochs=1, num_sanity_val_steps=0)
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    trainer.fit(module, datamodule=data)
    return loop


def of_a_few(labels, ids=(0, 1, 2, 4), **settings):
    return ActiveLearningDataModule(
        TensorDataset(X, labels), "entropy", query_size=4, labelled_ids=list(ids), stratify=False, **settings
    )


def test_rows_with_a_single_1_of_a_few_samples_are_not_taken_for_classes(make_trainer):
    with pytest.raises(ConfigurationError, match="rows with a single 1"):
        fit(make_trainer, ActiveLearningLoop(max_rounds=2), Net(binary_cross_entropy_with_logits), of_a_few(SEVERAL))
    assert not BATCHES, "it is found before a round is trained"
    module = Net(binary_cross_entropy_with_logits)
    loop = fit(make_trainer, ActiveLearningLoop(max_rounds=2, outputs="multilabel_logits"), module, of_a_few(SEVERAL))
    assert set(loop.rounds["outputs"]) == {"multilabel_logits"}


def test_labels_that_contradict_what_was_said_of_the_answers_are_an_error(make_trainer):
    loop = ActiveLearningLoop(max_rounds=3, outputs="logits")
    with pytest.raises(ConfigurationError, match="several 1 in a row"):
        fit(make_trainer, loop, Net(binary_cross_entropy_with_logits), of_a_few(SEVERAL, (0, 1, 20)))


def test_a_softmax_is_of_one_class_whatever_the_first_rows_are(make_trainer):
    class Softmax(Net):
        def forward(self, x):
            return super().forward(x).softmax(1)

    loop = fit(make_trainer, ActiveLearningLoop(max_rounds=2), Softmax(), of_a_few(torch.eye(3)[CLASSES]))
    assert set(loop.rounds["outputs"]) == {"probabilities"}


@pytest.mark.parametrize("kind", ["array", "tensor", "list"])
def test_one_hot_labels_by_value_train_as_they_were_given(kind, make_trainer):
    rows = one_hot(CLASSES, 3).float()
    given = {"array": rows.numpy(), "tensor": rows, "list": rows.tolist()}[kind]
    data = ActiveLearningDataModule(TensorDataset(X), "entropy", 6, 4, targets=given)
    loop = fit(make_trainer, ActiveLearningLoop(max_rounds=2), Net(), data)
    position = {tuple(row): index for index, row in enumerate(X.tolist())}
    for inputs, labels in BATCHES:
        ids = [position[tuple(row)] for row in inputs.tolist()]
        assert torch.equal(labels, rows[ids])
    assert loop.queries["label"].tolist() == CLASSES[loop.queries["sample_id"].tolist()].tolist()


class Masks(Dataset):
    reads = 0

    def __len__(self):
        return N

    def __getitem__(self, index):
        type(self).reads += 1
        return X[index], torch.zeros(16, 16, dtype=torch.long)


def test_labels_with_a_shape_are_not_all_read_before_they_are_refused(make_trainer):
    class Places(Net):
        def forward(self, x):
            return torch.zeros(len(x), 3, 16, 16) + super().forward(x)[:, :, None, None]

    Masks.reads = 0
    with pytest.raises(ConfigurationError, match="predict=False"):
        fit(make_trainer, KFoldLoop(2), Places(), KFoldDataModule(Masks(), 8))
    assert Masks.reads < N
    loop = fit(make_trainer, KFoldLoop(2, predict=False), Places(), KFoldDataModule(Masks(), 8))
    assert len(loop.folds) == 2


def test_votes_over_numbers_are_refused_before_a_fold_is_trained(make_trainer):
    class Numbers(Net):
        def __init__(self):
            super().__init__(nn.functional.mse_loss)
            self.layer = nn.Linear(4, 1)

        def forward(self, x):
            return self.layer(x)[:, 0]

    data = KFoldDataModule(TensorDataset(X, X.sum(1)), 8, test_dataset=TensorDataset(X, X.sum(1)))
    with pytest.raises(ConfigurationError, match="soft"):
        fit(make_trainer, KFoldLoop(2, test_ensemble="hard"), Numbers(), data)
    assert not BATCHES


class Nested(Dataset):
    def __init__(self, label):
        self.label = label

    def __len__(self):
        return N

    def __getitem__(self, index):
        return X[index], self.label(index)


@pytest.mark.parametrize(
    "label",
    [lambda i: {"boxes": X[i]}, lambda i: (i % 3, "a"), lambda i: [0] * (i % 3 + 1)],
    ids=["dict", "pair", "list"],
)
def test_labels_that_are_no_values_are_refused_before_a_fold_is_trained(label, make_trainer):
    def join(samples):
        return torch.stack([inputs for inputs, _ in samples]), [label for _, label in samples]

    class Own(Net):
        def training_step(self, batch, batch_idx):
            BATCHES.append(batch)
            return self(batch[0]).square().mean()

    data = KFoldDataModule(Loader(Nested(label), join), 8)
    with pytest.raises(DataError, match="The labels"):
        fit(make_trainer, KFoldLoop(2), Own(), data)
    assert not BATCHES
    loop = fit(make_trainer, KFoldLoop(2, predict=False), Own(), KFoldDataModule(Loader(Nested(label), join), 8))
    assert len(loop.folds) == 2


class Loader:
    """A data module with a collate function of its own."""

    def __init__(self, dataset, join):
        self.dataset, self.join = dataset, join

    def train_dataloader(self):
        return torch.utils.data.DataLoader(self.dataset, 8, shuffle=True, collate_fn=self.join)


def test_labels_that_are_arrays_are_stacked_as_they_are():
    from torchloops.data.label_values import as_array

    rows = [np.full((2, 3), index, dtype=np.uint8) for index in range(4)]
    assert as_array(rows).dtype == np.uint8
    assert as_array(rows).shape == (4, 2, 3)
    assert as_array([torch.tensor([1.0]), torch.tensor([2.0])]).tolist() == [1.0, 2.0]
    with pytest.raises(DataError, match="different shapes"):
        as_array([np.zeros((2, 2)), np.zeros((3, 2))])
