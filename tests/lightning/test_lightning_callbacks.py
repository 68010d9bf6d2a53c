"""Every callback of pytorch-lightning: it does here what it does there, or is refused before training."""

import copy
import datetime
import inspect
import warnings

import pytest
import torch
from torch import nn

import torchloops
from torchloops import Callback, Trainer
from torchloops.errors import ConfigurationError

pl = pytest.importorskip("pytorch_lightning")
C = pl.callbacks


class Net(pl.LightningModule):
    def __init__(self, norm=nn.BatchNorm1d):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 6), norm(6), nn.ReLU())
        self.head = nn.Linear(6, 1)

    def loss(self, batch):
        return (self.head(self.backbone(batch)) - 1).square().mean()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch))

    def predict_step(self, batch, batch_idx):
        return self.head(self.backbone(batch))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


RUN = {
    "BackboneFinetuning": lambda: C.BackboneFinetuning(unfreeze_backbone_at_epoch=1),
    "BaseFinetuning": lambda: _Finetuning(),
    "Callback": lambda: C.Callback(),
    "EarlyStopping": lambda: C.EarlyStopping("val/loss", patience=1, min_delta=10.0),
    "EMAWeightAveraging": lambda: C.EMAWeightAveraging(decay=0.5),
    "GradientAccumulationScheduler": lambda: C.GradientAccumulationScheduler({0: 1, 1: 2, 2: 4}),
    "LambdaCallback": lambda: C.LambdaCallback(on_train_batch_end=lambda trainer, module, *_: _shrink(module)),
    "ModelPruning": lambda: _Pruning(
        "l1_unstructured", amount=0.5, parameter_names=["weight"], use_global_unstructured=True
    ),
    "ModelSummary": lambda: C.ModelSummary(),
    "RichModelSummary": lambda: C.RichModelSummary(),
    "RichProgressBar": lambda: C.RichProgressBar(),
    "SpikeDetection": lambda: C.SpikeDetection(rtol=1e9),
    "StochasticWeightAveraging": lambda: C.StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1),
    "Timer": lambda: C.Timer(datetime.timedelta(seconds=0)),
    "TQDMProgressBar": lambda: C.TQDMProgressBar(),
    "WeightAveraging": lambda: C.WeightAveraging(),
}
REFUSED = {
    "BasePredictionWriter": lambda: _Writer("batch"),
    "BatchSizeFinder": lambda: C.BatchSizeFinder(),
    "DeviceStatsMonitor": lambda: C.DeviceStatsMonitor(),
    "LearningRateFinder": lambda: C.LearningRateFinder(),
    "LearningRateMonitor": lambda: C.LearningRateMonitor(),
    "ModelCheckpoint": lambda: C.ModelCheckpoint(),
    "OnExceptionCheckpoint": lambda: C.OnExceptionCheckpoint("somewhere"),
    "ThroughputMonitor": lambda: C.ThroughputMonitor(batch_size_fn=len),
}
BASES = {"Checkpoint", "ProgressBar"}


class _Finetuning(C.BaseFinetuning):
    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, lr=0.01)


class _Pruning(C.ModelPruning):
    PARAMETER_NAMES = ("weight",)

    def filter_parameters_to_prune(self, parameters_to_prune=()):
        return [one for one in parameters_to_prune if isinstance(one[0], nn.Linear)]


class _Writer(C.BasePredictionWriter):
    def write_on_batch_end(self, *args):
        raise AssertionError("refused before")


def _shrink(module):
    with torch.no_grad():
        module.head.weight.mul_(0.9)


def test_the_table_names_them_all():
    assert {*C.__all__} == {*RUN} | {*REFUSED} | BASES


@pytest.mark.parametrize("name", RUN)
def test_it_does_what_it_does_under_lightning(name, fit_theirs, fit_ours):
    data = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    start = Net(nn.LayerNorm if name == "StochasticWeightAveraging" else nn.BatchNorm1d)
    states, steps = [], []
    for fit in (fit_theirs, fit_ours):
        torch.manual_seed(3)
        loaders = [torch.utils.data.DataLoader(data, batch_size=4, shuffle=shuffle) for shuffle in (True, False)]
        module = copy.deepcopy(start)
        options = {"enable_progress_bar": name.endswith("Bar"), "num_sanity_val_steps": 0}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = fit(module, *loaders, max_epochs=4, callbacks=[RUN[name]()], **options)
        states.append(module.state_dict())
        steps.append((trainer.global_step, trainer.current_epoch))
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
    assert steps[0] == steps[1]


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_before_training(name):
    with pytest.raises(ConfigurationError, match=rf"pytorch-lightning's {name} .* Instead: "):
        Trainer(callbacks=[REFUSED[name]()])


def test_those_of_configure_callbacks_are_refused_too(make_ours):
    class Own(Net):
        def configure_callbacks(self):
            return [C.LearningRateMonitor()]

    with pytest.raises(ConfigurationError, match=r"torchloops\.LearningRateMonitor does the same"):
        make_ours(max_epochs=1).fit(Own(), torch.utils.data.DataLoader(torch.zeros(2, 4)))


def test_averaging_with_batch_norm_is_refused_before_training(make_ours):
    trainer = make_ours(callbacks=[RUN["StochasticWeightAveraging"]()])
    with pytest.raises(ConfigurationError, match=r"StochasticWeightAveraging .* Instead: pytorch-lightning's Weight"):
        trainer.fit(Net(), torch.utils.data.DataLoader(torch.zeros(2, 4)))


@pytest.mark.parametrize("given", [tuple, set, iter])
def test_callbacks_are_any_iterable(make_ours, given):
    seen = []

    class Notes(Callback):
        def on_train_end(self, trainer, pl_module):
            seen.append(1)

    trainer = make_ours(max_epochs=1, callbacks=given([Notes(), Notes()]))
    trainer.fit(Net(), torch.utils.data.DataLoader(torch.randn(4, 4), batch_size=2))
    assert seen == [1, 1]
    assert len([*trainer.arguments["callbacks"]]) == 2


def test_a_progress_bar_of_lightning_takes_the_place_of_ours(make_ours):
    trainer = make_ours(callbacks=[C.TQDMProgressBar()], enable_progress_bar=True)
    assert [type(one).__module__.partition(".")[0] for one in trainer.callbacks if "Bar" in type(one).__name__] == [
        "pytorch_lightning"
    ]


@pytest.mark.parametrize("name", ["EarlyStopping", "LearningRateMonitor", "ModelCheckpoint"])
def test_ours_take_the_same_arguments(name):
    theirs, ours = (inspect.signature(getattr(place, name)).parameters for place in (C, torchloops))
    assert {one: theirs[one].default for one in theirs} == {one: ours[one].default for one in [*ours][: len(theirs)]}
    assert [*theirs] == [*ours][: len(theirs)]
