"""torchmetrics of a module over a stop and a resume: collections, shared states, lists of tensors."""

import pytest
import torch
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC, MulticlassPrecision

from torchloops.callbacks import Callback
from torchloops.testing import TinyClassifier, random_dataset
from torchloops.trainer.metric_states import collect_metric_states, metrics_in, restore_metric_states


class Measured(TinyClassifier):
    def __init__(self):
        super().__init__(8, 8, 4)
        self.scores = MetricCollection([MulticlassAccuracy(4), MulticlassPrecision(4), MulticlassAUROC(4)])
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.scores.update(self(batch[0]).detach(), batch[1])
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self):
        self.seen.append({name: float(value) for name, value in self.scores.compute().items()})
        self.scores.reset()


class CutAt(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == 5:
            raise RuntimeError("cut")


def make_data():
    return DataLoader(random_dataset(64, in_features=8, num_classes=4), batch_size=8)


def test_a_collection_goes_on_in_the_middle_of_an_epoch(make_trainer, tmp_path):
    whole, cut, resumed = Measured(), Measured(), Measured()
    start = whole.state_dict()
    cut.load_state_dict(start)
    arguments = {"max_epochs": 2, "enable_checkpointing": True, "checkpoint_every": "3 steps"}
    make_trainer(**arguments, default_root_dir=tmp_path / "whole").fit(whole, make_data())
    with pytest.raises(RuntimeError, match="cut"):
        make_trainer(**arguments, default_root_dir=tmp_path / "cut", callbacks=CutAt()).fit(cut, make_data())
    make_trainer(**arguments, default_root_dir=tmp_path / "cut").fit(resumed, make_data(), ckpt_path="last")
    assert resumed.seen == whole.seen


def test_the_metrics_of_a_collection_are_up_to_date_before_it_is_asked_for_them():
    scores = Measured().scores
    for _ in range(3):
        scores.update(torch.randn(8, 4), torch.randint(0, 4, (8,)))
    assert set(metrics_in(scores)) == {"MulticlassAccuracy", "MulticlassPrecision", "MulticlassAUROC"}
    states = collect_metric_states(scores)
    assert {state["_update_count"] for state in states.values()} == {3}
    tp = [states[name]["state"]["tp"] for name in ("MulticlassAccuracy", "MulticlassPrecision")]
    assert torch.equal(*tp)


def test_states_go_to_the_device_of_the_metric():
    """The meta device stands for a GPU."""
    source = torch.nn.ModuleDict({"mean": MeanMetric(), "auroc": MulticlassAUROC(4)})
    source["mean"].update(1.0)
    source["auroc"].update(torch.randn(8, 4), torch.randint(0, 4, (8,)))
    target = torch.nn.ModuleDict({"mean": MeanMetric(), "auroc": MulticlassAUROC(4)}).to("meta")
    restore_metric_states(target, collect_metric_states(source))
    assert target["mean"].mean_value.device.type == "meta"
    assert [part.device.type for part in target["auroc"].preds] == ["meta"]
