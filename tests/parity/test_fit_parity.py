"""FitLoop gives the same bits as a loop by hand in plain PyTorch, on scikit-learn's digits."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR
from torch.utils.data import DataLoader, TensorDataset

from torchloops import LoopModule

EPOCHS = 2


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    return TensorDataset(torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target))


def loader(digits, batch_size=64, own_generator=True, n_samples=640):
    """Shuffled batches; the generator goes on from epoch to epoch."""
    generator = torch.Generator().manual_seed(3) if own_generator else None
    part = TensorDataset(*digits[:n_samples])
    return DataLoader(part, batch_size=batch_size, shuffle=True, generator=generator)


class Classifier(LoopModule):
    """A net with dropout, so that every draw of the generators counts."""

    def __init__(self, configure):
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(32, 10)
        self.configure = configure

    def forward(self, inputs):
        return self.head(self.body(inputs))

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        loss = nn.functional.cross_entropy(self(inputs), targets)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return self.configure(self)


def bits(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def compare(make_trainer, digits, configure, by_hand, loader_options=None, **arguments):
    """Train with the Trainer and with ``by_hand(module, loader)`` from the same seeds, and compare."""
    options = loader_options or {}
    ours, theirs = Classifier(configure), Classifier(configure)
    assert torch.equal(bits(ours), bits(theirs))
    before = bits(ours)
    torch.manual_seed(2)
    trainer = make_trainer(max_epochs=EPOCHS, **arguments)
    trainer.fit(ours, loader(digits, **options))
    torch.manual_seed(2)
    by_hand(theirs, loader(digits, **options))
    assert torch.equal(bits(ours), bits(theirs))
    assert not torch.equal(bits(ours), before)
    return trainer


def momentum(module):
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)


def plain(module, batches, accumulate=1, prepare=None, schedule=None, each_step=False):
    """The loop by hand; ``prepare(module)`` comes before each step."""
    configured = module.configure_optimizers()
    optimizer, scheduler = configured if isinstance(configured, tuple) else (configured, schedule)
    if isinstance(optimizer, list):
        optimizer, scheduler = optimizer[0], scheduler[0]
        scheduler = scheduler["scheduler"] if isinstance(scheduler, dict) else scheduler
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        for i, (inputs, targets) in enumerate(batches, start=1):
            loss = nn.functional.cross_entropy(module(inputs), targets)
            (loss / accumulate).backward()
            if i % accumulate == 0 or i == len(batches):
                if prepare is not None:
                    prepare(module)
                optimizer.step()
                optimizer.zero_grad()
                if scheduler is not None and each_step:
                    scheduler.step()
        if scheduler is not None and not each_step:
            scheduler.step()


@pytest.mark.parametrize("own_generator", [True, False], ids=["own generator", "global generator"])
@pytest.mark.parametrize("batch_size", [64, 48], ids=["whole last batch", "short last batch"])
def test_sgd_with_momentum(make_trainer, digits, own_generator, batch_size):
    options = {"own_generator": own_generator, "batch_size": batch_size}
    trainer = compare(make_trainer, digits, momentum, plain, options)
    assert trainer.global_step == EPOCHS * -(-640 // batch_size)


def test_adam_with_a_scheduler_per_epoch(make_trainer, digits):
    def configure(module):
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        return [optimizer], [StepLR(optimizer, step_size=1, gamma=0.3)]

    compare(make_trainer, digits, configure, plain)


def test_adam_with_a_scheduler_per_step(make_trainer, digits):
    def configure(module):
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        return [optimizer], [{"scheduler": CosineAnnealingLR(optimizer, T_max=20), "interval": "step"}]

    compare(make_trainer, digits, configure, lambda module, batches: plain(module, batches, each_step=True))


def test_accumulation_of_three_with_an_uneven_last_group(make_trainer, digits):
    trainer = compare(
        make_trainer,
        digits,
        momentum,
        lambda module, batches: plain(module, batches, accumulate=3),
        accumulate_grad_batches=3,
    )
    assert trainer.global_step == EPOCHS * 4  # ten batches an epoch: 3 + 3 + 3 + 1


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_clipping(make_trainer, digits, algorithm, accumulate):
    clip = {"norm": nn.utils.clip_grad_norm_, "value": nn.utils.clip_grad_value_}[algorithm]
    limit = {"norm": 0.1, "value": 0.005}[algorithm]
    compare(
        make_trainer,
        digits,
        momentum,
        lambda module, batches: plain(module, batches, accumulate, lambda module: clip(module.parameters(), limit)),
        gradient_clip_val=limit,
        gradient_clip_algorithm=algorithm,
        accumulate_grad_batches=accumulate,
    )


def test_two_optimizers(make_trainer, digits):
    class TwoParts(Classifier):
        def training_step(self, batch, batch_idx, optimizer_idx):
            return super().training_step(batch, batch_idx)

    def configure(module):
        return [
            torch.optim.SGD(module.body.parameters(), lr=0.1, momentum=0.9),
            torch.optim.Adam(module.head.parameters(), lr=0.01),
        ]

    ours, theirs = TwoParts(configure), TwoParts(configure)
    torch.manual_seed(2)
    trainer = make_trainer(max_epochs=EPOCHS)
    trainer.fit(ours, loader(digits))
    torch.manual_seed(2)
    optimizers = theirs.configure_optimizers()
    batches = loader(digits)
    for _ in range(EPOCHS):
        for inputs, targets in batches:
            for optimizer in optimizers:
                loss = nn.functional.cross_entropy(theirs(inputs), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    assert trainer.global_step == 2 * EPOCHS * 10
    assert torch.equal(bits(ours), bits(theirs))


def test_validation_and_logging_change_nothing(make_trainer, digits, tmp_path):
    class Validates(Classifier):
        def validation_step(self, batch, batch_idx):
            self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    ours, theirs = Validates(momentum), Classifier(momentum)
    torch.manual_seed(2)
    val = DataLoader(TensorDataset(*digits[640:900]), batch_size=64)
    make_trainer(max_epochs=EPOCHS, logger=True, log_every_n_steps=1).fit(ours, loader(digits), val)
    torch.manual_seed(2)
    batches = loader(digits)
    optimizer = momentum(theirs)
    for _ in range(EPOCHS):
        theirs.train()
        for inputs, targets in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(theirs(inputs), targets).backward()
            optimizer.step()
        theirs.eval()
        with torch.no_grad():
            for inputs, _ in val:
                theirs(inputs)
    assert torch.equal(bits(ours), bits(theirs))
