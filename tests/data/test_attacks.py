"""What an attack from outside found, each with its right value."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchloops import ActiveLearningDataModule, ActiveLearningLoop, KFoldLoop, LoopModule
from torchloops.errors import ConfigurationError, DataError

X = torch.randn(36, 5, generator=torch.Generator().manual_seed(0))
Y = (X @ torch.randn(5, 3, generator=torch.Generator().manual_seed(1))).argmax(1)


class Net(LoopModule):
    def __init__(self, outputs=3):
        super().__init__()
        self.net = nn.Linear(5, outputs)

    def forward(self, inputs):
        return self.net(inputs)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def cross_validate(make_trainer):
    def run(module, data, **settings):
        torch.manual_seed(0)
        trainer = make_trainer(max_epochs=3)
        loop = KFoldLoop(3, **settings)
        loop.connect(trainer.fit_loop)
        trainer.fit_loop = loop
        trainer.fit(module, data)
        return loop

    return run


class Hidden(Net):
    """Keeps an average of its weights where no list of its parts shows it, and answers by that."""

    def __init__(self):
        super().__init__()
        self.average = [copy.deepcopy(self.net)]

    def on_train_batch_end(self, outputs, batch, batch_idx):
        for mean, value in zip(self.average[0].parameters(), self.net.parameters(), strict=True):
            mean.data.mul_(0.7).add_(value.data, alpha=0.3)

    def predict_step(self, batch, batch_idx):
        return self.average[0](batch[0])


def test_a_network_outside_of_the_parts_of_a_module_starts_anew(cross_validate):
    torch.manual_seed(1)
    module = Hidden()
    alone = cross_validate(copy.deepcopy(module), TensorDataset(X, Y), folds=[2]).oof
    whole = cross_validate(module, TensorDataset(X, Y)).oof
    assert whole[whole["fold"] == 2].reset_index(drop=True).equals(alone)


def test_members_of_an_ensemble_have_what_their_fold_left_in_the_module(cross_validate):
    module = Hidden()
    kept = []

    def predict(module, batch):
        kept.append(copy.deepcopy(module.average[0]))
        return module.average[0](batch[0])

    loop = cross_validate(module, TensorDataset(X, Y), predict=predict)
    members = [kept[index] for index in (-3, -2, -1)]
    hand = torch.stack([member(X).softmax(1) for member in members]).mean(0)
    assert torch.allclose(loop.ensemble("soft").predict_step((X, Y)), hand, atol=1e-6)


def sorting(items):
    items = sorted(items, key=lambda item: float(item[0][0]))
    return torch.stack([x for x, _ in items]), torch.stack([y for _, y in items])


def dropping(items):
    return torch.stack([x for x, _ in items[1:]]), torch.stack([y for _, y in items[1:]])


@pytest.mark.parametrize("collate", [sorting, dropping])
def test_a_collate_function_that_moves_or_loses_samples_is_refused(cross_validate, make_trainer, collate):
    loader = DataLoader(TensorDataset(X, Y), batch_size=8, collate_fn=collate)
    with pytest.raises((DataError, ConfigurationError), match=r"eval_collate_fn|rows for"):
        cross_validate(Net(), loader)
    trainer = make_trainer(max_epochs=1)
    loop = ActiveLearningLoop(max_rounds=2)
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop

    class Data:
        def train_dataloader(self):
            return loader

    data = ActiveLearningDataModule(Data(), "entropy", initial_num_labels=6, query_size=3)
    with pytest.raises((DataError, ConfigurationError), match=r"eval_collate_fn|rows for"):
        trainer.fit(Net(), datamodule=data)


def test_a_mean_and_a_variance_are_no_two_classes(cross_validate):
    class MeanAndVariance(Net):
        def training_step(self, batch, batch_idx):
            mean, log_variance = self(batch[0]).unbind(1)
            return ((mean - batch[1]) ** 2 * (-log_variance).exp() + log_variance).mean()

    loop = cross_validate(MeanAndVariance(2), TensorDataset(X, X[:, 0].abs()))
    assert loop.results[0].kind == "numbers"
    assert [name for name in loop.oof if name.startswith("prediction")] == ["prediction_0", "prediction_1"]


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (lambda gates, experts: torch.bmm(gates.softmax(1)[:, None], experts.softmax(2))[:, 0], "probabilities"),
        (lambda gates, experts: (gates.softmax(1) + experts[:, 0].softmax(1)) / 2, "probabilities"),
        (lambda gates, experts: gates.softmax(1) + experts[:, 0].softmax(1), None),
        (lambda gates, experts: gates.softmax(1).bfloat16().float(), "probabilities"),
    ],
)
def test_mixed_probabilities_are_no_logits(cross_validate, end, kind):
    class Mixture(Net):
        def __init__(self):
            super().__init__()
            self.experts = nn.Linear(5, 9)

        def forward(self, inputs):
            return end(self.net(inputs), self.experts(inputs).view(-1, 3, 3))

    if kind is None:
        with pytest.raises(ConfigurationError, match=r"do not sum to 1.*outputs="):
            cross_validate(Mixture(), TensorDataset(X, Y))
    else:
        assert cross_validate(Mixture(), TensorDataset(X, Y)).results[0].kind == kind


def test_labels_that_come_later_say_what_answers_mean(make_trainer):
    labels = (X[:, :3] > 0).float()

    class Several(Net):
        def training_step(self, batch, batch_idx):
            return nn.functional.binary_cross_entropy_with_logits(self(batch[0]), batch[1])

    trainer = make_trainer(max_epochs=2)
    loop = ActiveLearningLoop(max_rounds=3)
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    trainer.fit(Several(), datamodule=ActiveLearningDataModule(TensorDataset(X, labels), "entropy", query_size=6))
    assert loop.rounds["outputs"].tolist()[1:] == ["multilabel_logits"] * 2
