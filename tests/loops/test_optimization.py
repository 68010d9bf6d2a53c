"""OptimizerLoop, ManualLoop, TrainingBatchLoop and schedulers: what stands between a batch and new weights."""

import pytest
import torch
from scratch import weights_of
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau, StepLR

from torchloops import LoopModule
from torchloops.errors import ConfigurationError
from torchloops.loops.training_batch_loop import split_over_time
from torchloops.testing import RecordingCallback, TinyClassifier, random_batches


def fit(trainer, module, n_train=5):
    trainer.fit(module, random_batches(n_train), random_batches(1, seed=1))
    return module


def two_optimizers(module):
    return [torch.optim.SGD(part.parameters(), lr=0.05) for part in (module.backbone, module.head)]


class TwoOptimizers(TinyClassifier):
    """Writes down the optimizer's index and which parameters have their gradients on."""

    def __init__(self, frequencies=None):
        super().__init__()
        self.frequencies = frequencies
        self.seen = []

    def training_step(self, batch, batch_idx, optimizer_idx):
        on = [next(part.parameters()).requires_grad for part in (self.backbone, self.head)]
        self.seen.append((batch_idx, optimizer_idx, *on))
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self):
        if self.frequencies is None:
            return two_optimizers(self)
        return [
            {"optimizer": optimizer, "frequency": frequency}
            for optimizer, frequency in zip(two_optimizers(self), self.frequencies, strict=True)
        ]


# several optimizers


def test_several_optimizers_step_on_every_batch_each_with_its_own_parameters(make_trainer):
    trainer = make_trainer(max_epochs=1)
    module = fit(trainer, TwoOptimizers(), n_train=2)
    assert module.seen == [(0, 0, True, False), (0, 1, False, True), (1, 0, True, False), (1, 1, False, True)]
    assert trainer.global_step == 4
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_batch_end_hook_gets_one_output_per_optimizer(make_trainer):
    recorder = RecordingCallback()
    fit(make_trainer(max_epochs=1, callbacks=recorder), TwoOptimizers(), n_train=1)
    outputs = recorder.arguments[recorder.calls.index("on_train_batch_end")][0]
    assert [set(output) for output in outputs] == [{"loss"}, {"loss"}]


def test_frequencies_give_each_optimizer_its_batches(make_trainer):
    trainer = make_trainer(max_epochs=2)
    module = fit(trainer, TwoOptimizers(frequencies=[1, 2]), n_train=5)
    assert [index for _, index, *_ in module.seen] == [0, 1, 1, 0, 1] * 2
    assert trainer.global_step == 10


def test_frequencies_for_some_optimizers_only_are_refused(make_trainer):
    class Some(TwoOptimizers):
        def configure_optimizers(self):
            first, second = two_optimizers(self)
            return [{"optimizer": first, "frequency": 1}, second]

    with pytest.raises(ConfigurationError, match="2 optimizers and 1 frequencies"):
        fit(make_trainer(max_epochs=1), Some())


def test_gradients_are_switched_back_on_after_an_error(make_trainer):
    class Fails(TwoOptimizers):
        def training_step(self, batch, batch_idx, optimizer_idx):
            raise OverflowError

    module = Fails()
    module.head.bias.requires_grad_(False)
    with pytest.raises(OverflowError):
        fit(make_trainer(max_epochs=1), module)
    assert [name for name, p in module.named_parameters() if not p.requires_grad] == ["head.bias"]


def test_training_step_that_takes_no_optimizer_idx_is_told_so(make_trainer):
    class Misses(TinyClassifier):
        configure_optimizers = two_optimizers

    with pytest.raises(ConfigurationError, match=r"takes 2 arguments, but 3 are passed: \(batch, batch_idx, opt"):
        fit(make_trainer(max_epochs=1), Misses())


# what training_step returns


@pytest.mark.filterwarnings("ignore:training_step returned no loss")
def test_a_batch_may_be_left_out(make_trainer):
    class SkipsOdd(TinyClassifier):
        def training_step(self, batch, batch_idx):
            return None if batch_idx % 2 else super().training_step(batch, batch_idx)

    trainer = make_trainer(max_epochs=1)
    fit(trainer, SkipsOdd())
    assert trainer.global_step == 3


def test_extra_outputs_reach_the_hook(make_trainer):
    class Extra(TinyClassifier):
        def training_step(self, batch, batch_idx):
            return {"loss": super().training_step(batch, batch_idx), "extra": batch_idx}

    recorder = RecordingCallback()
    fit(make_trainer(max_epochs=1, callbacks=recorder), Extra(), n_train=1)
    outputs = recorder.arguments[recorder.calls.index("on_train_batch_end")][0]
    assert outputs["extra"] == 0
    assert not outputs["loss"].requires_grad


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda loss: loss.repeat(3), r"one element, got a tensor of shape \(3,\)"),
        (lambda loss: loss.detach(), "has no gradient"),
        (lambda loss: {"lss": loss}, r"got a dict with the keys \['lss'\]"),
        (lambda loss: 3.5, "got float"),
        (lambda loss: {"loss": 3.5}, "one element, got float"),
    ],
    ids=["vector", "detached", "no loss", "number", "number in dict"],
)
def test_a_wrong_loss_is_refused(make_trainer, output, message):
    class Wrong(TinyClassifier):
        def training_step(self, batch, batch_idx):
            return output(super().training_step(batch, batch_idx))

    with pytest.raises(ConfigurationError, match=message):
        fit(make_trainer(max_epochs=1), Wrong())


def test_no_optimizer_is_refused(make_trainer):
    class Without(TinyClassifier):
        def configure_optimizers(self):
            return []

    with pytest.raises(ConfigurationError, match="Without\\.configure_optimizers gives no optimizer"):
        fit(make_trainer(max_epochs=1), Without())


# accumulation and clipping


class Gradients(RecordingCallback):
    """Keeps the norm of the gradients seen by the optimizer's step."""

    def __init__(self):
        super().__init__()
        self.norms, self.largest = [], []

    def setup(self, trainer, module, stage):
        pass

    def watch(self, module):
        original = module.configure_optimizers

        def configure():
            optimizer = original()
            optimizer.register_step_pre_hook(lambda *args: self.look(module))
            return optimizer

        module.configure_optimizers = configure
        return module

    def look(self, module):
        gradients = torch.cat([p.grad.flatten() for p in module.parameters()])
        self.norms.append(gradients.norm().item())
        self.largest.append(gradients.abs().max().item())


def test_accumulation_divides_the_loss_and_steps_on_the_last_batch(make_trainer):
    steps = []

    class Steps(TinyClassifier):
        def on_before_backward(self, loss):
            steps.append(round(loss.item() / self.last, 6))

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.last = loss.item()
            return loss

    trainer = make_trainer(max_epochs=2, accumulate_grad_batches=3)
    fit(trainer, Steps(), n_train=5)
    assert trainer.global_step == 4
    assert steps == [round(1 / 3, 6)] * 10


def test_accumulation_fires_step_hooks_once_a_step(make_trainer):
    recorder = RecordingCallback()
    fit(make_trainer(max_epochs=1, accumulate_grad_batches=3, callbacks=recorder), TinyClassifier(), n_train=5)
    names = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
    assert [recorder.calls.count(name) for name in names] == [2, 5, 5, 2]


def test_a_step_is_forced_on_the_last_batch_also_under_a_limit_of_batches(make_trainer):
    trainer = make_trainer(max_epochs=1, accumulate_grad_batches=3, limit_train_batches=4)
    fit(trainer, TinyClassifier(), n_train=9)
    assert trainer.global_step == 2


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped_before_the_step(make_trainer, algorithm):
    watcher = Gradients()
    module = watcher.watch(TinyClassifier())
    fit(make_trainer(max_epochs=1, gradient_clip_val=0.01, gradient_clip_algorithm=algorithm), module)
    found = watcher.norms if algorithm == "norm" else watcher.largest
    assert found == pytest.approx([0.01] * 5, rel=1e-3)


def test_the_hook_before_the_step_sees_gradients_not_yet_clipped(make_trainer):
    seen = []

    class Looks(TinyClassifier):
        def on_before_optimizer_step(self, optimizer):
            seen.append(torch.cat([p.grad.flatten() for p in self.parameters()]).norm().item())

    fit(make_trainer(max_epochs=1, gradient_clip_val=0.01), Looks())
    assert min(seen) > 0.02


@pytest.mark.filterwarnings("ignore:training_step returned no loss")
def test_gradients_are_clipped_also_where_the_last_batch_of_an_accumulation_is_left_out(make_trainer):
    class SkipsLast(TinyClassifier):
        def training_step(self, batch, batch_idx):
            return None if batch_idx == 2 else super().training_step(batch, batch_idx)

    watcher = Gradients()
    module = watcher.watch(SkipsLast())
    fit(make_trainer(max_epochs=1, accumulate_grad_batches=3, gradient_clip_val=0.01), module, n_train=3)
    assert watcher.norms == pytest.approx([0.01], rel=1e-3)


def test_the_module_may_clip_itself(make_trainer):
    calls = []

    class Own(TinyClassifier):
        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            calls.append((gradient_clip_val, gradient_clip_algorithm))
            self.clip_gradients(optimizer, gradient_clip_val=0.02)

    watcher = Gradients()
    fit(make_trainer(max_epochs=1, gradient_clip_val=0.5), watcher.watch(Own()), n_train=2)
    assert calls == [(0.5, "norm")] * 2
    assert watcher.norms == pytest.approx([0.02] * 2, rel=1e-3)


def test_lbfgs_gets_a_closure_that_it_may_call_many_times(make_trainer):
    losses = []

    class WithLBFGS(TinyClassifier):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            losses.append(loss.item())
            return loss

        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), lr=0.5, max_iter=4)

    trainer = make_trainer(max_epochs=1)
    fit(trainer, WithLBFGS(), n_train=1)
    assert trainer.global_step == 1
    assert len(losses) >= 4
    assert losses[-1] < losses[0]


# truncated backpropagation through time


class Recurrent(LoopModule):
    truncated_bptt_steps = 4

    def __init__(self):
        super().__init__()
        self.cell = nn.RNN(3, 5, batch_first=True)
        self.head = nn.Linear(5, 1)
        self.seen = []

    def training_step(self, batch, batch_idx, hiddens):
        inputs, targets = batch
        self.seen.append((batch_idx, inputs.shape[1], None if hiddens is None else hiddens.requires_grad))
        outputs, hiddens = self.cell(inputs, hiddens)
        return {"loss": nn.functional.mse_loss(self.head(outputs), targets), "hiddens": hiddens}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def sequences(n_batches=2, time=10):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(6, time, 3, generator=generator), torch.randn(6, time, 1, generator=generator))
        for _ in range(n_batches)
    ]


def test_truncated_backpropagation_steps_on_every_split(make_trainer):
    trainer = make_trainer(max_epochs=1)
    module = Recurrent()
    trainer.fit(module, sequences())
    assert module.seen == [(0, 4, None), (0, 4, False), (0, 2, False), (1, 4, None), (1, 4, False), (1, 2, False)]
    assert trainer.global_step == 6


def test_truncated_backpropagation_equals_a_loop_by_hand(make_trainer):
    torch.manual_seed(1)
    module = Recurrent()
    torch.manual_seed(1)
    by_hand = Recurrent()
    make_trainer(max_epochs=2).fit(module, sequences())
    optimizer = by_hand.configure_optimizers()
    for _ in range(2):
        for inputs, targets in sequences():
            hiddens = None
            for x, y in zip(inputs.split(4, dim=1), targets.split(4, dim=1), strict=True):
                outputs, hiddens = by_hand.cell(x, hiddens)
                hiddens = hiddens.detach()
                optimizer.zero_grad()
                nn.functional.mse_loss(by_hand.head(outputs), y).backward()
                optimizer.step()
    assert torch.equal(weights_of(module), weights_of(by_hand))


def test_the_module_may_split_a_batch_itself(make_trainer):
    class Own(Recurrent):
        def tbptt_split_batch(self, batch, split_size):
            return [batch, batch]

    module = Own()
    make_trainer(max_epochs=1).fit(module, sequences(1))
    assert [length for _, length, _ in module.seen] == [10, 10]


def test_split_over_time_leaves_other_items_whole():
    x, y, lengths = torch.arange(20).view(2, 10), torch.zeros(2, 10, 3), torch.tensor([10, 9])
    splits = split_over_time((x, y, lengths, "name"), 6)
    assert [split[0].shape[1] for split in splits] == [6, 4]
    assert torch.equal(torch.cat([split[0] for split in splits], dim=1), x)
    assert all(torch.equal(split[2], lengths) and split[3] == "name" for split in splits)


@pytest.mark.parametrize(
    ("batch", "found"),
    [((torch.zeros(2, 3), torch.zeros(2, 4)), r"found \[3, 4\]"), ((torch.zeros(2),), "found no tensor with a time")],
)
def test_split_over_time_refuses(batch, found):
    with pytest.raises(ConfigurationError, match=found):
        split_over_time(batch, 2)


# manual optimization


class Manual(TinyClassifier):
    automatic_optimization = False
    learning_rates = ()

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        for optimizer in (first, second):
            self.toggle_optimizer(optimizer)
            loss = super().training_step(batch, batch_idx)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)
        self.lr_schedulers().step()
        self.learning_rates = (*self.learning_rates, first.param_groups[0]["lr"])
        return {"loss": loss.detach(), "note": batch_idx}

    def configure_optimizers(self):
        optimizers = two_optimizers(self)
        return optimizers, [ExponentialLR(optimizers[0], 0.5)]


def test_manual_optimization_does_what_the_module_says(make_trainer):
    recorder = RecordingCallback()
    trainer = make_trainer(max_epochs=1, callbacks=recorder)
    module = fit(trainer, Manual(), n_train=3)
    assert trainer.global_step == 6
    assert module.learning_rates == pytest.approx([0.025, 0.0125, 0.00625])  # the module alone steps schedulers
    outputs = recorder.arguments[recorder.calls.index("on_train_batch_end")][0]
    assert outputs["note"] == 0
    assert recorder.calls.count("on_before_backward") == recorder.calls.count("on_after_backward") == 6
    assert recorder.calls.count("on_before_optimizer_step") == 6


def test_manual_optimization_equals_several_automatic_optimizers(make_trainer):
    class ManualPlain(TinyClassifier):
        automatic_optimization = False
        configure_optimizers = two_optimizers

        def training_step(self, batch, batch_idx):
            for optimizer in self.optimizers():
                self.toggle_optimizer(optimizer)
                optimizer.zero_grad()
                self.manual_backward(super().training_step(batch, batch_idx))
                optimizer.step()
                self.untoggle_optimizer(optimizer)

    torch.manual_seed(1)
    manual = ManualPlain()
    torch.manual_seed(1)
    automatic = TwoOptimizers()
    fit(make_trainer(max_epochs=2), manual)
    fit(make_trainer(max_epochs=2), automatic)
    assert torch.equal(weights_of(manual), weights_of(automatic))


# schedulers


class Scheduled(TinyClassifier):
    """Keeps the learning rate of every batch."""

    def __init__(self, configure):
        super().__init__()
        self.configure = configure
        self.rates = []

    def training_step(self, batch, batch_idx):
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self):
        return self.configure(torch.optim.SGD(self.parameters(), lr=1.0))


def half(optimizer):
    return StepLR(optimizer, step_size=1, gamma=0.5)


@pytest.mark.parametrize(
    ("configure", "rates"),
    [
        (lambda o: ([o], [half(o)]), [1, 1, 0.5, 0.5, 0.25, 0.25]),
        (lambda o: {"optimizer": o, "lr_scheduler": half(o)}, [1, 1, 0.5, 0.5, 0.25, 0.25]),
        (lambda o: {"optimizer": o, "lr_scheduler": {"scheduler": half(o)}}, [1, 1, 0.5, 0.5, 0.25, 0.25]),
        (
            lambda o: {"optimizer": o, "lr_scheduler": {"scheduler": half(o), "interval": "step"}},
            [1, 0.5, 0.25, 0.125, 0.0625, 0.03125],
        ),
        (
            lambda o: {"optimizer": o, "lr_scheduler": {"scheduler": half(o), "interval": "step", "frequency": 3}},
            [1, 1, 1, 0.5, 0.5, 0.5],
        ),
        (
            lambda o: ([o], [{"scheduler": half(o), "interval": "epoch", "frequency": 2}]),
            [1, 1, 1, 1, 0.5, 0.5],
        ),
        (
            lambda o: ([o], [half(o), {"scheduler": half(o), "interval": "step"}]),
            [1, 0.5, 0.125, 0.0625, 1 / 64, 1 / 128],
        ),
        (lambda o: o, [1] * 6),
        (lambda o: [o], [1] * 6),
        (lambda o: {"optimizer": o}, [1] * 6),
    ],
    ids=["lists", "dict", "dict in dict", "step", "every 3 steps", "every 2 epochs", "both", "one", "list", "bare"],
)  # fmt: skip
def test_schedulers_step_when_they_say(make_trainer, configure, rates):
    module = fit(make_trainer(max_epochs=3), Scheduled(configure), n_train=2)
    assert module.rates == pytest.approx(rates)


def test_a_step_scheduler_counts_optimizer_steps_not_batches(make_trainer):
    def configure(optimizer):
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": half(optimizer), "interval": "step"}}

    module = fit(make_trainer(max_epochs=1, accumulate_grad_batches=2), Scheduled(configure), n_train=5)
    assert module.rates == [1, 1, 0.5, 0.5, 0.25]


def plateau(optimizer, **options):
    scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=100.0, threshold_mode="abs")
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **options}}


def test_plateau_watches_a_logged_metric(make_trainer):
    module = fit(make_trainer(max_epochs=3), Scheduled(lambda o: plateau(o, monitor="val/loss")), n_train=1)
    assert module.rates == [1, 1, 0.5]


def test_plateau_takes_the_monitor_beside_the_scheduler_too(make_trainer):
    def configure(optimizer):
        found = plateau(optimizer)
        return {**found, "lr_scheduler": found["lr_scheduler"]["scheduler"], "monitor": "train/loss"}

    assert fit(make_trainer(max_epochs=3), Scheduled(configure), n_train=1).rates == [1, 1, 0.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "ReduceLROnPlateau needs a metric"),
        ({"monitor": "val/los"}, r"watches 'val/los', which was not logged.*Did you mean \"val/loss\""),
        ({"interval": "batch"}, "\"interval\" is \"epoch\" or \"step\", got 'batch'"),
        ({"intervall": "step"}, 'Did you mean "interval"'),
    ],
)  # fmt: skip
def test_a_wrong_scheduler_is_refused(make_trainer, options, message):
    with pytest.raises(ConfigurationError, match=message):
        fit(make_trainer(max_epochs=2), Scheduled(lambda o: plateau(o, **options)))


def test_plateau_that_is_not_strict_leaves_a_missing_metric_out(make_trainer):
    module = fit(
        make_trainer(max_epochs=3), Scheduled(lambda o: plateau(o, monitor="nothing", strict=False)), n_train=1
    )
    assert module.rates == [1, 1, 1]


def test_the_module_may_step_schedulers_itself(make_trainer):
    class Own(Scheduled):
        def lr_scheduler_step(self, scheduler, metric):
            scheduler.step()
            scheduler.step()

    module = fit(make_trainer(max_epochs=3), Own(lambda o: ([o], [half(o)])), n_train=1)
    assert module.rates == [1, 0.25, 0.0625]


@pytest.mark.parametrize("wrong", [{"optimiser": 1}, "SGD", {"lr": 1}])
def test_what_configure_optimizers_may_not_return(make_trainer, wrong):
    with pytest.raises(ConfigurationError, match="configure_optimizers"):
        fit(make_trainer(max_epochs=1), Scheduled(lambda o: wrong))
