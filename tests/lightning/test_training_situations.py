"""What people met while training: schedulers, closures, manual optimization, overridden methods."""

import copy
import warnings

import pytest
import torch
from torch import nn

from torchloops import Callback, EarlyStopping, LoopModule
from torchloops.errors import ConfigurationError

pl = pytest.importorskip("pytorch_lightning")

KINDS = pytest.mark.parametrize("base", [LoopModule, pl.LightningModule])


def numbers(n=8, batch_size=2):
    values = torch.arange(n, dtype=torch.float32).reshape(n, 1)
    return torch.utils.data.DataLoader(values, batch_size=batch_size)


def tiny(base, **methods):
    """A module with one weight ``w`` that goes from 0 towards 1; ``methods`` are added or replaced."""

    def init(self):
        base.__init__(self)
        self.w = nn.Parameter(torch.zeros(1))

    body = {
        "__init__": init,
        "training_step": lambda self, batch, batch_idx: ((self.w - 1) ** 2).sum(),
        "configure_optimizers": lambda self: torch.optim.SGD(self.parameters(), lr=0.1),
        **methods,
    }
    return type("Tiny", (base,), body)()


def by_hand(n_steps, lr=0.1):
    weight = 0.0
    for _ in range(n_steps):
        weight += 2 * lr * (1 - weight)
    return weight


@pytest.fixture
def train(make_ours):
    """``train(module, loader, val=None, **options)``: a fit without output; returns the Trainer."""

    def run(module, loader=None, val=None, callbacks=None, **options):
        options = {"max_epochs": 1, "num_sanity_val_steps": 0, **options}
        trainer = make_ours(callbacks=callbacks, **options)
        trainer.fit(module, numbers() if loader is None else loader, val)
        return trainer

    return run


# schedulers


class TwoOptimizers:
    """Two weights, an optimizer and a scheduler each."""

    def __init__(self, options):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.options, self.n_steps = options, [0, 0]

    def training_step(self, batch, batch_idx, optimizer_idx):
        return (((self.a, self.b)[optimizer_idx] - 1) ** 2).sum()

    def configure_optimizers(self):
        optimizers = [torch.optim.SGD([weight], lr=0.1) for weight in (self.a, self.b)]
        self.schedulers = [torch.optim.lr_scheduler.StepLR(optimizer, 1000) for optimizer in optimizers]
        for index, optimizer in enumerate(optimizers):
            optimizer.register_step_post_hook(lambda *_, index=index: self.count(index))
        turns = self.options.get("turns", (None, None))
        return [
            {
                "optimizer": optimizer,
                "lr_scheduler": {
                    "scheduler": scheduler,
                    "interval": "step",
                    "frequency": self.options.get("frequency", 1),
                },
                **({"frequency": turn} if turn else {}),
            }
            for optimizer, scheduler, turn in zip(optimizers, self.schedulers, turns, strict=True)
        ]

    def count(self, index):
        self.n_steps[index] += 1


@KINDS
@pytest.mark.parametrize(
    ("options", "n_batches", "accumulate", "n_steps", "n_scheduler_steps"),
    [
        ({"turns": (3, 1)}, 8, 1, [6, 2], [6, 2]),
        ({"turns": (9, 1)}, 8, 1, [8, 0], [8, 0]),
        ({"turns": (3, 1), "frequency": 2}, 8, 1, [6, 2], [3, 1]),
        ({"frequency": 2}, 8, 1, [8, 8], [4, 4]),
        ({"frequency": 3}, 9, 1, [9, 9], [3, 3]),
        ({"frequency": 5}, 10, 1, [10, 10], [2, 2]),
        ({}, 8, 2, [4, 4], [4, 4]),
        ({"frequency": 2}, 8, 2, [4, 4], [2, 2]),
    ],
)
def test_a_scheduler_counts_the_steps_of_its_own_optimizer(
    train, base, options, n_batches, accumulate, n_steps, n_scheduler_steps
):
    module = type("Two", (TwoOptimizers, base), {})(options)
    train(module, numbers(2 * n_batches), accumulate_grad_batches=accumulate)
    assert module.n_steps == n_steps
    assert [scheduler.last_epoch for scheduler in module.schedulers] == n_scheduler_steps


class WatchedPlateau(torch.optim.lr_scheduler.ReduceLROnPlateau):
    seen = ()

    def step(self, metrics, epoch=None):
        self.seen = [*self.seen, float(metrics)]
        super().step(metrics)


@KINDS
@pytest.mark.parametrize("strict", [True, False])
def test_a_plateau_by_step_sees_the_validation_of_that_step(train, base, strict):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        self.plateau = WatchedPlateau(optimizer, patience=1000)
        scheduler = {"scheduler": self.plateau, "monitor": "val/loss", "interval": "step", "frequency": 2}
        return {"optimizer": optimizer, "lr_scheduler": {**scheduler, "strict": strict}}

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", float(self.trainer.global_step))

    module = tiny(base, configure_optimizers=configure_optimizers, validation_step=validation_step)
    train(module, numbers(), numbers(2), max_epochs=2, val_check_interval=2)
    assert module.plateau.seen == [2.0, 4.0, 6.0, 8.0]


@KINDS
@pytest.mark.parametrize(("max_steps", "n_epoch_steps"), [(3, 0), (4, 1), (6, 1), (8, 2)])
def test_schedulers_by_epoch_step_for_whole_epochs_alone(train, base, max_steps, n_epoch_steps):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1000)
        return [optimizer], [self.scheduler]

    module = tiny(base, configure_optimizers=configure_optimizers)
    assert train(module, max_epochs=-1, max_steps=max_steps).global_step == max_steps
    assert module.scheduler.last_epoch == n_epoch_steps


# closures


class CallsTheClosureWithoutGradients(torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure=None):
        loss = closure()
        super().step()
        return loss


@KINDS
def test_an_optimizer_whose_step_runs_without_gradients_trains(train, base):
    module = tiny(base, configure_optimizers=lambda self: CallsTheClosureWithoutGradients(self.parameters(), lr=0.1))
    assert train(module).global_step == 4
    assert float(module.w.detach()) == pytest.approx(by_hand(4))


@KINDS
@pytest.mark.parametrize("automatic", [True, False])
def test_a_step_that_calls_its_base_class_is_one_step(train, base, automatic):
    class Renamed(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)  # from here on torch's hooks see both
    watch = Watch()
    module = tiny(base, configure_optimizers=lambda self: Renamed(self.parameters(), lr=0.1))
    if not automatic:
        module.automatic_optimization = False
        type(module).training_step = step_by_hand
    assert train(module, callbacks=[watch], max_epochs=2).global_step == 8
    assert [name for name, *_ in watch.seen].count("before_step") == 8
    assert float(module.w.detach()) == pytest.approx(by_hand(8))


@KINDS
def test_an_optimizer_that_evaluates_twice_gets_its_closure(train, base):
    class TwoPasses(torch.optim.SGD):
        def step(self, closure=None):
            assert closure is not None
            closure()
            gradients = [p.grad.clone() for group in self.param_groups for p in group["params"]]
            closure()
            for group in self.param_groups:
                for parameter, gradient in zip(group["params"], gradients, strict=True):
                    parameter.grad.add_(gradient)
            return super().step()

    module = tiny(base, configure_optimizers=lambda self: TwoPasses(self.parameters(), lr=0.05))
    assert train(module).global_step == 4
    assert float(module.w.detach()) == pytest.approx(by_hand(4))


@KINDS
def test_an_optimizer_that_ignores_its_closure_trains(train, base):
    class Ignores(torch.optim.SGD):
        def step(self, closure=None):
            super().step()

    module = tiny(base, configure_optimizers=lambda self: Ignores(self.parameters(), lr=0.1))
    assert train(module).global_step == 4
    assert float(module.w.detach()) == pytest.approx(by_hand(4))


@KINDS
def test_an_optimizer_step_that_leaves_the_closure_out_is_an_error(train, base):
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        optimizer.step()

    with pytest.raises(ConfigurationError, match="never called its closure"):
        train(tiny(base, optimizer_step=optimizer_step))


@KINDS
def test_steps_that_never_come_end_the_fit_with_an_error(train, base):
    module = tiny(base, training_step=lambda self, batch, batch_idx: None)
    with (
        pytest.warns(UserWarning, match="returned no loss"),
        pytest.raises(ConfigurationError, match=r"max_steps=5 would never be reached.*Return the loss"),
    ):
        train(module, max_epochs=-1, max_steps=5)


@KINDS
def test_a_loss_that_is_not_returned_is_warned_of_and_trains_nothing(train, base):
    module = tiny(base, training_step=lambda self, batch, batch_idx: None)
    with pytest.warns(UserWarning, match="returned no loss"):
        assert train(module).global_step == 0
    assert float(module.w.detach()) == 0


# manual optimization


def step_by_hand(self, batch, batch_idx):
    optimizer = self.optimizers()
    optimizer.zero_grad()
    self.manual_backward(((self.w - 1) ** 2).sum())
    optimizer.step()


class Watch(Callback):
    def __init__(self):
        self.seen = []

    def on_before_backward(self, trainer, pl_module, loss):
        self.seen.append(("before_backward", float(loss.detach())))

    def on_after_backward(self, trainer, pl_module):
        self.seen.append(("after_backward", float(pl_module.w.grad)))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen.append(("before_step", float(pl_module.w.grad), type(optimizer).__name__))


@KINDS
def test_manual_optimization_calls_the_hooks_around_backward_and_step(train, base):
    watch = Watch()
    module = tiny(base, training_step=step_by_hand, automatic_optimization=False)
    train(module, numbers(2), callbacks=[watch])
    assert watch.seen == [("before_backward", 1.0), ("after_backward", -2.0), ("before_step", -2.0, "SGD")]
    assert float(module.w.detach()) == pytest.approx(by_hand(1))


@KINDS
def test_manual_modules_have_their_optimizers_before_the_first_hook(train, base):
    def configure_optimizers(self):
        self.own = torch.optim.SGD(self.parameters(), lr=0.1)
        return self.own

    def training_step(self, batch, batch_idx):
        self.own.zero_grad()
        ((self.w - 1) ** 2).sum().backward()
        self.own.step()

    seen = []
    hooks = {
        name: lambda self, name=name: seen.append((name, hasattr(self, "own")))
        for name in ("on_fit_start", "on_train_start", "on_train_epoch_start")
    }
    module = tiny(
        base,
        configure_optimizers=configure_optimizers,
        training_step=training_step,
        automatic_optimization=False,
        **hooks,
    )
    train(module)
    assert seen == [("on_fit_start", True), ("on_train_start", True), ("on_train_epoch_start", True)]
    assert float(module.w.detach()) == pytest.approx(by_hand(4))


@KINDS
@pytest.mark.parametrize("option", ["gradient_clip_val", "accumulate_grad_batches"])
def test_what_manual_optimization_does_itself_is_refused_as_an_argument(train, base, option):
    module = tiny(base, training_step=step_by_hand, automatic_optimization=False)
    with pytest.raises(ConfigurationError, match=rf"Trainer\({option}=2\) is for automatic optimization"):
        train(module, **{option: 2})


# methods that a module overrides, and self.log elsewhere


@KINDS
def test_methods_that_a_module_overrides_are_the_ones_that_run(train, base, capsys):
    def log(self, name, value, *args, **kwargs):
        base.log(self, f"prefix/{name}", value, *args, **kwargs)

    def manual_backward(self, loss, *args, **kwargs):
        base.manual_backward(self, 2 * loss, *args, **kwargs)

    def print(self, *args, **kwargs):
        base.print(self, "printed:", *args, **kwargs)

    def training_step(self, batch, batch_idx):
        self.print(batch_idx)
        self.log("one", 1.0)
        self.log_dict({"two": 2.0})
        step_by_hand(self, batch, batch_idx)

    module = tiny(
        base,
        training_step=training_step,
        automatic_optimization=False,
        log=log,
        manual_backward=manual_backward,
        print=print,
    )
    trainer = train(module, numbers(2))
    assert trainer.callback_metrics["prefix/one"] == 1.0
    assert {"prefix/two", "two"} & {*trainer.callback_metrics} == {"prefix/two"}
    assert float(module.w.detach()) == pytest.approx(2 * by_hand(1))
    assert capsys.readouterr().out == "printed: 0\n"


@KINDS
def test_callbacks_log_and_what_they_log_is_monitored(train, base):
    class Logs(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.log("by_batch", float(batch_idx), on_step=False, on_epoch=True)

        def on_validation_epoch_end(self, trainer, pl_module):
            self.log_dict({"val/by_callback": float(trainer.current_epoch)})

    stopping = EarlyStopping("val/by_callback", patience=1, mode="min")
    module = tiny(base, validation_step=lambda self, batch, batch_idx: None)
    trainer = train(module, val=numbers(2), callbacks=[stopping, Logs()], max_epochs=10)
    assert trainer.callback_metrics["by_batch"] == 1.5
    assert trainer.current_epoch == 2


# modes, precision, set-up


@KINDS
@pytest.mark.parametrize(("options", "n_calls"), [({}, 4), ({"accumulate_grad_batches": 2}, 2)])
def test_a_module_may_zero_gradients_before_a_validation_unless_they_accumulate(train, base, options, n_calls):
    seen, kept = [], []
    module = tiny(
        base,
        on_validation_model_zero_grad=lambda self: (seen.append(1), self.zero_grad()),
        validation_step=lambda self, batch, batch_idx: kept.append(self.w.grad is not None),
    )
    train(module, numbers(), numbers(2), val_check_interval=1, **options)
    assert len(seen) == n_calls
    assert kept.count(True) == 4 - n_calls


@KINDS
def test_parts_in_eval_mode_stay_so(train, base):
    module = tiny(base)
    module.frozen, module.norm = nn.Dropout(0.5), nn.BatchNorm1d(1)
    module.frozen.eval()
    seen = []
    type(module).on_train_batch_start = lambda self, batch, batch_idx: seen.append(
        (self.frozen.training, self.norm.training)
    )
    type(module).validation_step = lambda self, batch, batch_idx: seen.append(
        (self.frozen.training, self.norm.training)
    )
    train(module, numbers(2), numbers(2), max_epochs=2)
    assert seen == [(False, True), (False, False)] * 2


@KINDS
@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_the_model_is_configured_in_every_stage(make_ours, base, stage):
    class Lazy(base):
        def configure_model(self):
            if not hasattr(self, "net"):
                self.net = nn.Linear(1, 2)

        def validation_step(self, batch, batch_idx):
            self.log("size", float(self.net(batch).shape[1]))

        test_step = validation_step

        def predict_step(self, batch, batch_idx):
            return self.net(batch)

    trainer = make_ours()
    result = getattr(trainer, stage)(Lazy(), numbers(2))
    if stage == "predict":
        assert result[0].shape == (2, 2)
    else:
        assert result == [{"size": 2.0}]


@KINDS
def test_predictions_have_the_precision_of_the_trainer(make_ours, base):
    module = tiny(base, predict_step=lambda self, batch, batch_idx: batch * self.w)
    assert make_ours(precision="64-true").predict(module, numbers(2))[0].dtype == torch.float64


@KINDS
@pytest.mark.parametrize(
    ("hook", "stage"),
    [
        ("training_epoch_end", "fit"), ("validation_epoch_end", "fit"), ("validation_epoch_end", "validate"),
        ("test_epoch_end", "test"),
    ],
)  # fmt: skip
def test_hooks_of_1x_that_would_be_left_out_are_refused(make_ours, base, hook, stage):
    def step(self, batch, batch_idx):
        raise AssertionError("refused before")

    methods = dict.fromkeys(("validation_step", "test_step"), step)
    module = tiny(base, **methods, **{hook: lambda self, outputs: None})
    data = (numbers(), numbers(2)) if stage == "fit" else (numbers(2),)
    with pytest.raises(ConfigurationError, match=rf"{hook}\(outputs\) is a hook of Lightning 1\.x"):
        getattr(make_ours(max_epochs=1), stage)(module, *data)


# the same bits as Lightning


class Several(pl.LightningModule):
    """A small network whose parts the cases below change."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))

    def loss(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Lbfgs(Several):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)


class FrozenBackbone(Several):
    def __init__(self):
        super().__init__()
        self.net[:3].requires_grad_(False).eval()

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.01)


class WarmUp(Several):
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        for group in optimizer.param_groups:
            group["lr"] = min(1.0, (self.trainer.global_step + 1) / 6) * 0.1
        optimizer.step(closure=optimizer_closure)


class OwnBackward(Several):
    def backward(self, loss):
        (3 * loss).backward()


class OwnZeroGrad(Several):
    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(0.5)


class OwnClipping(Several):
    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.clip_gradients(optimizer, gradient_clip_val=0.02, gradient_clip_algorithm="value")


class OwnSchedule(Several):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
        return [optimizer], [{"scheduler": schedule, "interval": "step", "frequency": 2}]

    def lr_scheduler_step(self, scheduler, metric):
        scheduler.step()
        scheduler.step()


class SkipsBatches(Several):
    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 3 else None


class OwnTransfer(Several):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return (x + 0.1 * torch.randn_like(x), y) if self.trainer.training else batch


class Turns(Several):
    """Manual optimization of two parts in turns, with schedulers."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()[batch_idx % 2]
        self.toggle_optimizer(optimizer)
        loss = self.loss(batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.untoggle_optimizer(optimizer)
        self.lr_schedulers()[batch_idx % 2].step()
        self.log("loss", loss, on_step=True, on_epoch=True)

    def configure_optimizers(self):
        optimizers = [torch.optim.Adam(part.parameters(), lr=0.01) for part in (self.net[0], self.net[4])]
        return optimizers, [torch.optim.lr_scheduler.StepLR(one, 2, 0.5) for one in optimizers]


class TwoPasses(Several):
    """Sharpness-aware minimization: weights moved up the gradient, and down from there."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        norm = torch.stack([p.grad.norm() for p in self.parameters()]).norm()
        moves = [0.05 * p.grad / (norm + 1e-12) for p in self.parameters()]
        with torch.no_grad():
            for parameter, move in zip(self.parameters(), moves, strict=True):
                parameter.add_(move)
        optimizer.zero_grad()
        loss = self.loss(batch)
        self.manual_backward(loss)
        with torch.no_grad():
            for parameter, move in zip(self.parameters(), moves, strict=True):
                parameter.sub_(move)
        optimizer.step()
        self.log("loss", loss.detach(), on_step=True, on_epoch=True)


class KeepsOutputs(Several):
    """A value of a whole epoch, out of a list that the module keeps."""

    def __init__(self):
        super().__init__()
        self.outputs = []

    def validation_step(self, batch, batch_idx):
        self.outputs.append(self.loss(batch))

    def on_validation_epoch_end(self):
        self.log("val/loss", torch.stack(self.outputs).mean())
        self.outputs.clear()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Several, {}),
        (Lbfgs, {}),
        (FrozenBackbone, {}),
        (WarmUp, {}),
        (WarmUp, {"accumulate_grad_batches": 2}),
        (OwnBackward, {}),
        (OwnZeroGrad, {"limit_val_batches": 0}),  # theirs sets gradients to None before a validation
        (OwnZeroGrad, {"limit_val_batches": 0, "accumulate_grad_batches": 2}),
        (OwnClipping, {}),
        (OwnSchedule, {}),
        (SkipsBatches, {}),
        (OwnTransfer, {}),
        (Turns, {}),
        (TwoPasses, {}),
        (KeepsOutputs, {"val_check_interval": 0.5}),
    ],
)
def test_further_modules_train_to_the_same_bits_as_under_lightning(kind, options, fit_theirs, fit_ours):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(38, 4, generator=generator)
    data = torch.utils.data.TensorDataset(inputs, (inputs.sum(1) > 0).long())
    theirs = kind()
    ours, start = copy.deepcopy(theirs), copy.deepcopy(theirs.state_dict())
    trainers = []
    for fit, module in ((fit_theirs, theirs), (fit_ours, ours)):
        torch.manual_seed(7)
        loaders = [torch.utils.data.DataLoader(data, batch_size=5, shuffle=shuffle) for shuffle in (True, False)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainers.append(fit(module, *loaders, max_epochs=3, **options))
    assert any(not torch.equal(start[name], value) for name, value in ours.state_dict().items())
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name]), name
    metrics = [{name: float(value) for name, value in one.callback_metrics.items()} for one in trainers]
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-6)  # theirs adds up in single precision
    assert trainers[0].global_step == trainers[1].global_step
