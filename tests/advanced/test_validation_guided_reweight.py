"""ValidationGuidedLoop(scale="reweight"): samples weighted by how their gradients agree with the guide's."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from torchloops import LoopModule, ValidationGuidedLoop
from torchloops.advanced.validation_guided import alignments, classification_losses
from torchloops.errors import ConfigurationError
from torchloops.testing import TinyClassifier, random_batches

TRAIN, GUIDE = random_batches(4, 16), random_batches(2, 16, seed=1)


def seeded(cls=TinyClassifier, **arguments):
    torch.manual_seed(0)
    return cls(**arguments)


def fit(make_trainer, module, data=TRAIN, loop=None, **arguments):
    trainer = make_trainer(**{"max_epochs": 2, **arguments})
    loop = loop or ValidationGuidedLoop(guide_dataloader=GUIDE, scale="reweight")
    trainer.fit_loop.replace(epoch_loop=loop)
    trainer.fit(module, data)
    return trainer


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


class Losses(TinyClassifier):
    """A classifier that returns its samples' losses."""

    passes = 0

    def training_step(self, batch, batch_idx):
        self.passes += self.training
        losses = nn.functional.cross_entropy(self(batch[0]), batch[1], reduction="none")
        self.log("train/loss", losses.mean())
        return {"loss": losses.mean(), "losses": losses, "note": 1}


def weights_one_by_one(model, batch, guide):
    """Ren et al.'s weights with a gradient for every sample."""
    parameters = list(model.parameters())
    direction = torch.autograd.grad(nn.functional.cross_entropy(model(guide[0]), guide[1]), parameters)
    weights = []
    for inputs, target in zip(*batch, strict=True):
        loss = nn.functional.cross_entropy(model(inputs[None]), target[None])
        gradient = torch.autograd.grad(loss, parameters)
        weights.append(sum((one * other).sum() for one, other in zip(gradient, direction, strict=True)))
    weights = torch.stack(weights).clamp(min=0)
    return weights / weights.sum()


def plain_loop(model, accumulate=1, epochs=2):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for epoch in range(epochs):
        for i, batch in enumerate(TRAIN):
            if i % accumulate == 0:
                optimizer.zero_grad()
                guide = GUIDE[((epoch * len(TRAIN) + i) // accumulate) % len(GUIDE)]
            weights = weights_one_by_one(model, batch, guide)
            losses = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
            ((weights * losses).sum() / accumulate).backward()
            if (i + 1) % accumulate == 0:
                optimizer.step()
    return model


@pytest.mark.parametrize("cls", [TinyClassifier, Losses])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_weights_equal_a_loop_with_a_gradient_for_every_sample(make_trainer, cls, accumulate):
    module = seeded(cls)
    fit(make_trainer, module, accumulate_grad_batches=accumulate)
    for one, other in zip(module.parameters(), plain_loop(seeded(), accumulate).parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_step_that_returns_losses_runs_once(make_trainer):
    module = seeded(Losses)
    trainer = fit(make_trainer, module)
    assert module.passes == 8
    assert "train/loss" in trainer.callback_metrics


def test_a_function_gives_the_losses_of_any_module(make_trainer):
    class Regression(LoopModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(32, 1)

        def training_step(self, batch, batch_idx):
            return (self.net(batch["x"]) - batch["y"]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    data = [{"x": inputs, "y": targets[:, None].float()} for inputs, targets in TRAIN]
    module = seeded(Regression)
    before = module.net.weight.detach().clone()
    loop = ValidationGuidedLoop(
        guide_dataloader=data,
        scale="reweight",
        sample_losses=lambda module, batch: (module.net(batch["x"]) - batch["y"]).square().flatten(),
    )
    fit(make_trainer, module, data, loop)
    assert not torch.equal(before, module.net.weight)
    loop = ValidationGuidedLoop(guide_dataloader=data, scale="reweight")
    with pytest.raises(
        ConfigurationError, match=r"needs a loss for every sample.* no pair of inputs and class indices"
    ):
        fit(make_trainer, module, data, loop)


def test_alignments_are_dot_products_of_gradients():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    images, targets = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    parameters = list(net.parameters())
    direction = [torch.randn_like(parameter) for parameter in parameters]
    losses = nn.functional.cross_entropy(net(images), targets, reduction="none")
    found = alignments(losses, parameters, direction)
    for index in range(6):
        gradient = torch.autograd.grad(losses[index], parameters, retain_graph=True)
        expected = sum((one * other).sum() for one, other in zip(gradient, direction, strict=True))
        torch.testing.assert_close(found[index], expected)
    losses.sum().backward()  # the graph is still there
    assert not found.requires_grad
    assert torch.equal(alignments(net(images)[:, 0], parameters, [None] * len(parameters)), torch.zeros(6))


def test_a_batch_against_the_guide_gets_no_weight(make_trainer):
    """With all weights zero a batch teaches nothing, instead of dividing by zero."""
    data = [(inputs[:1], targets[:1]) for inputs, targets in TRAIN[:1]]
    module, plain = seeded(), seeded()
    loop = ValidationGuidedLoop(
        guide_dataloader=data,
        scale="reweight",
        guide_step=lambda module, batch: -classification_losses(module, batch).mean(),
    )
    trainer = fit(make_trainer, module, data, loop)
    assert trainer.callback_metrics["guide/share_weighted"] == 0
    assert equal(module, plain)


def test_wrong_labels_get_less_weight(make_trainer):
    torch.manual_seed(0)
    flipped = [
        (inputs, torch.where(torch.arange(16) % 2 == 0, (targets + 3) % 10, targets))
        for inputs, targets in random_batches(30, 16, noise=0.5)
    ]
    share = {"wrong": [], "right": []}

    class Watch(ValidationGuidedLoop):
        def on_run_start(self, batches):
            super().on_run_start(batches)
            steps = self._guided_steps()
            weigh = steps._weights

            def note(losses, index):
                weights = weigh(losses, index)
                share["wrong"].append(weights[::2].sum())
                share["right"].append(weights[1::2].sum())
                return weights

            steps._weights = note

    loop = Watch(guide_dataloader=random_batches(4, 16, seed=1, noise=0.5), scale="reweight")
    fit(make_trainer, seeded(), flipped, loop, max_epochs=1)
    late = slice(10, None)
    assert torch.stack(share["right"][late]).mean() > 5 * torch.stack(share["wrong"][late]).mean()


def test_it_logs_what_it_did(make_trainer):
    metrics = fit(make_trainer, seeded()).callback_metrics
    assert set(metrics) >= {"guide/loss", "guide/share_weighted", "guide/grad_norm", "train/loss"}
    assert 0 < metrics["guide/share_weighted"] <= 1
    assert "guide/scale" not in metrics


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (lambda module, batch: module(batch[0]).mean(), r"Got shape \(\)"),
        (lambda module, batch: module(batch[0]).detach()[:, 0], "losses without a gradient"),
        (lambda module, batch: 1.0, "Got float"),
    ],
)
def test_wrong_losses_are_named(make_trainer, losses, message):
    loop = ValidationGuidedLoop(guide_dataloader=GUIDE, scale="reweight", sample_losses=losses)
    with pytest.raises(ConfigurationError, match=message):
        fit(make_trainer, seeded(), loop=loop)


def test_every_n_steps_keeps_the_guides_gradient(make_trainer):
    asked = []

    def guide_step(module, batch):
        asked.append(1)
        return classification_losses(module, batch).mean()

    loop = ValidationGuidedLoop(guide_dataloader=GUIDE, scale="reweight", every_n_steps=3, guide_step=guide_step)
    fit(make_trainer, seeded(), loop=loop)
    assert len(asked) == 3  # steps 0, 3 and 6 of 8


def test_several_optimizers_clipping_and_bf16(make_trainer):
    class Parts(TinyClassifier):
        def training_step(self, batch, batch_idx, optimizer_idx):
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self):
            return [torch.optim.Adam(part.parameters(), lr=0.01) for part in (self.backbone, self.head)]

    module = seeded(Parts)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    trainer = fit(make_trainer, module, precision="bf16-mixed", gradient_clip_val=0.5)
    assert trainer.global_step == 16
    assert all(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert {"guide/share_weighted/0", "guide/share_weighted/1"} <= set(trainer.callback_metrics)


def test_a_batch_left_out_stays_out(make_trainer):
    class Skips(TinyClassifier):
        def training_step(self, batch, batch_idx):
            return None if batch_idx % 2 and self.training else super().training_step(batch, batch_idx)

    with pytest.warns(UserWarning, match="returned no loss"):
        assert fit(make_trainer, seeded(Skips)).global_step == 4


class Reentrant(TinyClassifier):
    """Its parameters are hidden from torch.autograd.grad."""

    def forward(self, inputs):
        return checkpoint(super().forward, inputs.clone().requires_grad_(), use_reentrant=True)


def test_a_guide_loss_without_gradients_is_refused(make_trainer):
    with pytest.raises(ConfigurationError, match="use_reentrant=False"):
        fit(make_trainer, seeded(Reentrant))
