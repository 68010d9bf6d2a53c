"""Results: what was logged goes on after a resume with the same bits."""

import io
import itertools
import warnings

import pytest
import torch
from torch import nn
from torchmetrics import Metric

from torchloops.errors import CheckpointError, ResumeWarning
from torchloops.trainer.logged_entry import Entry
from torchloops.trainer.results import Results

N_BATCHES = 150  # more than two folds of 64


class Accuracy(Metric):
    """The share of zeros in what it has seen."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("zeros", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, values):
        self.zeros += (values == 0).sum()
        self.count += values.numel()

    def compute(self):
        return self.zeros / self.count


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.accuracy = Accuracy()


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def names(module):
    return {id(part): name for name, part in module.named_modules() if isinstance(part, Metric)}


def metrics(module):
    return {name: part for name, part in module.named_modules() if isinstance(part, Metric)}


def new_process(results, module):
    """A new module and new results with the state of others."""
    other = Module()
    other.accuracy.zeros, other.accuracy.count = module.accuracy.zeros, module.accuracy.count
    for name in ("_update_count", "_forward_cache", "_computed"):  # saved with the module's metrics
        setattr(other.accuracy, name, getattr(module.accuracy, name))
    resumed = Results(training=results.training)
    state = through_a_file(results.state_dict(names(module)))
    resumed.log("stale", 1.0, on_epoch=True)
    resumed.load_state_dict(state, metrics(other))
    return resumed, other


def log_batch(results, module, index):
    """One batch of two data loaders in turn, with values of every kind."""
    generator = torch.Generator().manual_seed(index)
    results.batch, results.size = torch.empty(3 + index % 5, 2), None
    results.select_loader(index % 2)
    value = torch.randn((), generator=generator)
    results.log("mean", value * 1e3, on_step=True, on_epoch=True)
    results.log("half", value.half().reshape(1), on_epoch=True)
    results.log("double", value.double() * 10.0 ** (index % 9) / 3.0, on_epoch=True, on_step=False)
    results.log("number", float(value), on_epoch=True, on_step=False)
    results.log("mixed", float(value) if index % 3 else value.double(), on_epoch=True, on_step=False)
    results.log("sum", value, reduce_fx="sum", on_epoch=True, on_step=False, batch_size=7)
    results.log("min", value, reduce_fx="min", on_epoch=True, on_step=False, logger=False)
    results.log("max", -value, reduce_fx="max", on_epoch=True, on_step=False)
    results.log(f"last of {index % 2}", value, on_step=True, on_epoch=False, prog_bar=True, add_dataloader_idx=False)
    results.log("text/count", index, on_step=True, on_epoch=True, reduce_fx="sum")
    module.accuracy(torch.randint(2, (4,), generator=generator))
    results.log("accuracy", module.accuracy, on_step=True, on_epoch=True, add_dataloader_idx=False)


def everything(results):
    """All that one can see of results, as text with every bit, in its order."""
    results.place = ""
    results.log("after", 0.3, on_epoch=True)  # outside of a batch: weighted with the last one's size
    seen = [results.logged_step(), results.step_metrics(), results.step_metrics("prog_bar")]
    seen.append(results.epoch_metrics(lambda value, _: value))
    seen.append({entry.name: entry.total for entry in results._all()})  # to the last bit of double precision
    results.reset()
    seen.append(results.logged_step())
    return repr([[(name, str(_exact(value))) for name, value in part.items()] for part in seen])


def _exact(value):
    if isinstance(value, tuple):
        return tuple(map(_exact, value))
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.tolist()
    return value


@pytest.mark.parametrize("training", [True, False])
def test_cut_at_every_batch_the_same_bits_come_out(training):
    expected = Results(training), Module()
    for index in range(N_BATCHES):
        log_batch(*expected, index)
    expected = everything(expected[0])
    for cut in [*range(8), *range(60, 70), *range(124, 132), N_BATCHES]:
        results, module = Results(training), Module()
        for index in range(cut):
            log_batch(results, module, index)
        results, module = new_process(results, module)
        for index in range(cut, N_BATCHES):
            log_batch(results, module, index)
        assert everything(results) == expected, f"cut after {cut} batches"


def test_cut_at_every_batch_of_one_run():
    expected = Results(True), Module()
    resumed = Results(True), Module()
    for index in range(N_BATCHES):
        log_batch(*expected, index)
        log_batch(*resumed, index)
        resumed = new_process(*resumed)
    assert everything(resumed[0]) == everything(expected[0])


def test_saving_changes_nothing():
    expected, watched = (Results(True), Module()), (Results(True), Module())
    for index in range(N_BATCHES):
        log_batch(*expected, index)
        log_batch(*watched, index)
        watched[0].state_dict(names(watched[1]))
    assert everything(watched[0]) == everything(expected[0])


def test_folding_before_saving_would_change_bits(monkeypatch):
    """The reason why pending values are kept as they are."""

    def folded(self, metric=None, state_dict=Entry.state_dict):
        self.fold()
        return state_dict(self, metric)

    monkeypatch.setattr(Entry, "state_dict", folded)
    with pytest.raises(AssertionError, match="cut after"):
        test_cut_at_every_batch_the_same_bits_come_out(True)


def test_what_is_saved_does_not_follow_what_is_logged_later():
    results = Results(False)
    results.batch, results.size = torch.empty(2, 1), None
    value = torch.tensor(1.0)
    results.log("a", value)
    state = results.state_dict()
    value.add_(5.0)
    results.log("a", torch.tensor(3.0))
    other = Results(False)
    other.load_state_dict(state)
    assert other.epoch_metrics(lambda value, _: value)["a"][0].item() == 1.0


def test_a_buffer_that_is_changed_in_place_is_logged_as_it_was():
    results, average = Results(False), torch.tensor(0.0)
    results.batch, results.size = torch.empty(1, 1), None
    for _ in range(3):
        average.add_(1.0)
        results.log("average", average)
    assert results.epoch_metrics(lambda value, _: value)["average"][0].item() == 2.0


def test_the_size_of_the_last_batch_is_known_until_the_epoch_forgets_it():
    for forget, expected in ((False, 5.0), (True, 1.0)):
        results = Results(True)
        results.place = "training_step"  # "a" needs no size
        results.batch, results.size = torch.empty(5, 1), None
        results.log("a", 1.0)
        other = Results(True)
        other.load_state_dict(through_a_file(results.state_dict()))
        if forget:
            other.batch = None
        other.log("b", 2.0, on_epoch=True)
        assert other._entries["b"].sizes == [expected]


def test_few_tensors_are_saved():
    results, module = Results(True), Module()
    for index in range(10):
        log_batch(results, module, index)
    tensors = []

    def visit(value):
        if isinstance(value, torch.Tensor):
            tensors.append(value)
        elif isinstance(value, dict | list | tuple):
            for item in value.values() if isinstance(value, dict) else value:
                visit(item)

    visit(results.state_dict(names(module)))
    with_tensors = {"mean", "half", "double", "sum", "min", "max"}
    assert len(tensors) == 2 * len(with_tensors)  # one an entry, and two loaders


def test_a_metric_the_module_no_longer_has():
    results, module = Results(True), Module()
    log_batch(results, module, 0)
    with pytest.raises(CheckpointError, match=r"module.accuracy, .* \['precision'\]"):
        Results(True).load_state_dict(results.state_dict(names(module)), {"precision": Accuracy()})


def test_a_metric_that_is_no_part_of_the_module_is_warned_about():
    results, metric = Results(True), Accuracy()
    results.log("hidden", metric)
    results.log("seen", 1.0)
    assert list(results.state_dict({})["loaders"][0][1]) == ["seen"]  # nothing to lose yet
    with warnings.catch_warnings(action="ignore"):
        metric.update(torch.zeros(2))
    with pytest.warns(ResumeWarning, match=r"'hidden'.*Accuracy.*self.accuracy"):
        results.state_dict({})


def test_states_of_format_1_load():
    saved = {
        "on_step": True, "on_epoch": True, "prog_bar": False, "logger": True, "reduction": "mean", "sync": False,
        "total": torch.tensor(6.0, dtype=torch.float64), "weight": 3.0, "value": torch.tensor(4.0),
    }  # fmt: skip
    results = Results(True)
    results.load_state_dict({"loss": saved, "format": {**saved, "on_step": False}})
    assert results.logged_step() == {"loss_step": 4.0}
    found = results.epoch_metrics(lambda value, _: value)
    assert {name: value.item() for name, (value, _, _) in found.items()} == {
        "loss_epoch": 2.0, "loss": 2.0, "format": 2.0,
    }  # fmt: skip
    Results(True).load_state_dict({})


def test_values_of_many_kinds_are_saved_as_they_are():
    values = [torch.tensor(2**60 + 1), torch.tensor(True), torch.tensor(0.1, dtype=torch.bfloat16), 2**60 + 1, -0.0]
    for first, second in itertools.product(values, repeat=2):
        results, other = Results(False), Results(False)
        results.batch, results.size = torch.empty(1, 1), None
        results.log("a", first)
        results.log("a", second)
        other.load_state_dict(through_a_file(results.state_dict()))
        assert str(other._entries["a"].pending) == str([first, second])
        assert str(other.step_metrics()) == str(results.step_metrics())
