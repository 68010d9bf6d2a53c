"""Lightning #20094: several optimizers under automatic optimization, which Lightning 2 refuses."""

import pytest
import torch
from torch import nn

from torchloops import LoopModule
from torchloops.testing import random_batches


class Two(LoopModule):
    """Each optimizer owns a layer; what a step sees is written down."""

    def __init__(self, frequencies=None, schedule=False):
        super().__init__()
        self.first, self.second = nn.Linear(32, 16), nn.Linear(16, 10)
        self.frequencies, self.schedule, self.calls = frequencies, schedule, []

    def training_step(self, batch, batch_idx, optimizer_idx):
        flags = (self.first.weight.requires_grad, self.second.weight.requires_grad)
        self.calls.append((batch_idx, optimizer_idx, flags))
        loss = nn.functional.cross_entropy(self.second(self.first(batch[0]).relu()), batch[1])
        self.log(f"loss_{optimizer_idx}", loss)
        return loss

    def configure_optimizers(self):
        optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.first, self.second)]
        if self.frequencies:
            return [{"optimizer": o, "frequency": n} for o, n in zip(optimizers, self.frequencies, strict=True)]
        if self.schedule:
            return optimizers, [torch.optim.lr_scheduler.ExponentialLR(o, gamma) for o, gamma in
                                zip(optimizers, (0.5, 0.1), strict=True)]  # fmt: skip
        return optimizers


def test_every_optimizer_steps_on_every_batch_and_trains_its_own_part_alone(make_trainer):
    module = Two()
    trainer = make_trainer(max_epochs=1)
    trainer.fit(module, random_batches(2))
    alone = [(True, False), (False, True)]
    assert module.calls == [(batch, index, alone[index]) for batch in (0, 1) for index in (0, 1)]
    assert trainer.global_step == 4
    assert set(trainer.callback_metrics) == {"loss_0", "loss_1"}
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_it_equals_the_loop_by_hand(make_trainer):
    batches = random_batches(4)
    module, by_hand = Two(), Two()
    by_hand.load_state_dict(module.state_dict())
    make_trainer(max_epochs=2, gradient_clip_val=0.1).fit(module, batches)
    optimizers = by_hand.configure_optimizers()
    for _ in range(2):
        for inputs, targets in batches:
            for optimizer, part in zip(optimizers, (by_hand.first, by_hand.second), strict=True):
                loss = nn.functional.cross_entropy(by_hand.second(by_hand.first(inputs).relu()), targets)
                by_hand.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(part.parameters(), 0.1)
                optimizer.step()
    assert torch.equal(module.first.weight, by_hand.first.weight)
    assert torch.equal(module.second.bias, by_hand.second.bias)


def test_frequencies(make_trainer):
    module = Two(frequencies=(1, 2))
    trainer = make_trainer(max_epochs=1)
    trainer.fit(module, random_batches(7))
    assert [index for _, index, _ in module.calls] == [0, 1, 1, 0, 1, 1, 0]
    assert trainer.global_step == 7


def test_each_has_its_scheduler(make_trainer):
    trainer = make_trainer(max_epochs=2)
    trainer.fit(Two(schedule=True), random_batches(2))
    rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
    assert rates == pytest.approx([0.1 * 0.25, 0.1 * 0.01])


def test_accumulation(make_trainer):
    module = Two()
    trainer = make_trainer(max_epochs=1, accumulate_grad_batches=2)
    trainer.fit(module, random_batches(3))
    assert trainer.global_step == 4
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_a_resume_knows_both(make_trainer, tmp_path):
    batches = random_batches(3)
    module = Two(schedule=True)
    start = {name: value.clone() for name, value in module.state_dict().items()}
    make_trainer(max_epochs=4).fit(module, batches)
    cut = Two(schedule=True)
    cut.load_state_dict(start)
    trainer = make_trainer(max_epochs=2)
    trainer.fit(cut, batches)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    resumed = Two(schedule=True)
    make_trainer(max_epochs=4).fit(resumed, batches, ckpt_path=tmp_path / "two.ckpt")
    assert torch.equal(module.first.weight, resumed.first.weight)


def test_a_step_that_takes_no_index_is_told_so(make_trainer):
    class NoIndex(Two):
        def training_step(self, batch, batch_idx):
            return self.second(self.first(batch[0])).mean()

    with pytest.raises(ValueError, match=r"takes 2 arguments, but 3 are passed: \(batch, batch_idx, optimizer_idx\)"):
        make_trainer(max_epochs=1).fit(NoIndex(), random_batches(1))
