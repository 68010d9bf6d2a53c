"""check_loop finds what is wrong: a broken loop for every point, and wrong arguments."""

import re

import pytest
import torch
from torch import nn

from torchloops import EvaluationLoop, FitLoop, Loop, OptimizerLoop, TrainingEpochLoop, YieldLoop
from torchloops.errors import ConfigurationError, TorchloopsError
from torchloops.testing import ContractError, TinyClassifier, check_loop, random_loader


class Descent(Loop):
    """One epoch of gradient descent an iteration; the broken loops below change a part of it."""

    factor = 1.0

    @property
    def done(self):
        return self.progress.current == self.trainer.max_epochs

    def advance(self):
        module, (optimizer,) = self.trainer.module, self.trainer.optimizers
        for batch_idx, batch in enumerate(self.trainer.train_dataloader):
            optimizer.zero_grad()
            (module.training_step(batch, batch_idx) * self.factor).backward()
            optimizer.step()


class TrainsNothing(Descent):
    def advance(self):
        pass


class Explodes(Descent):
    factor = float("inf")


class Fails(Descent):
    def advance(self):
        raise OverflowError("too much")


class TrainsInValidation(EvaluationLoop):
    def on_run_end(self):
        with torch.no_grad():
            next(self.trainer.module.parameters()).add_(1.0)
        return super().on_run_end()


class DrawsFromElsewhere(Descent):
    """Random numbers of a generator that no seed reaches."""

    generator = torch.Generator()

    @property
    def factor(self):
        return torch.rand((), generator=self.generator).item()


class Remembers(Descent):
    """Begins a second fit where the first ended."""

    factor = 1.0

    def advance(self):
        super().advance()
        self.factor = self.factor / 2


class OwnRun(Descent):
    def on_run_start(self):
        pass

    def reset(self):
        pass

    def run(self):
        self.on_run_start()
        self.reset()
        self.progress.current = 0
        while not self.done:
            self.advance()
            self.progress.current += 1


class NeverAsks(Descent):
    def run(self):
        for _ in range(2):
            self.advance()


class StartsOnly(Descent):
    def on_run_start(self):
        self.trainer.call_hook("on_train_start")


class EndsOnly(Descent):
    def on_run_end(self):
        self.trainer.call_hook("on_train_end")


class LeavesEvaluationMode(Descent):
    def on_run_end(self):
        self.trainer.module.head.eval()


class SetsTrainingMode(Descent):
    """Puts parts that were in evaluation mode into training mode."""

    def on_run_start(self):
        self.trainer.module.train()


class Freezes(Descent):
    def on_run_end(self):
        self.trainer.module.head.bias.requires_grad_(False)


class LeavesAnAttribute(Descent):
    def on_run_start(self):
        self.trainer.module._descent = self


class LeavesAMethod(Descent):
    def on_run_start(self):
        module = self.trainer.module
        module.training_step = module.training_step


class LeavesAHook(Descent):
    def on_run_start(self):
        self.trainer.module.head.register_forward_hook(lambda *args: None)


class LeavesGradientsOff(Descent):
    def on_run_end(self):
        torch.set_grad_enabled(False)


class SavesItself(Descent):
    def on_save_checkpoint(self):
        return {"rows": [1, {"device": self}]}


class LoadsNothing(Descent):
    def on_run_start(self):
        self.seen = []

    def advance(self):
        super().advance()
        self.seen.append(self.progress.current)

    def on_save_checkpoint(self):
        return {"seen": getattr(self, "seen", [])}


class OnlyOutermost(Descent):
    """Does nothing where it is not the Trainer's own fit loop."""

    def advance(self):
        if self.trainer.fit_loop is self:
            super().advance()


class CountsRuns(Descent):
    """Takes smaller steps in each run of a fit."""

    runs = 0

    def on_run_start(self):
        self.runs = self.runs + 1 if self.trainer.run_name else 1

    @property
    def factor(self):
        return 1 / self.runs


class Swallows(Descent):
    def advance(self):
        try:
            super().advance()
        except Exception:
            self.progress.current = self.trainer.max_epochs - 1


class HalfDone(Descent):
    """Freezes a part while it works, and forgets it after an error."""

    def advance(self):
        self.trainer.module.backbone.requires_grad_(False)
        super().advance()
        self.trainer.module.backbone.requires_grad_(True)


class KeepsWhatAnErrorLeft(Descent):
    """Takes smaller steps where an iteration before was not finished."""

    factor = 1.0
    busy = False

    def advance(self):
        self.factor = 0.1 if self.busy else 1.0
        self.busy = True
        super().advance()
        self.busy = False


BROKEN = [
    (TrainsNothing, "trains", "all weights are what they were"),
    (Explodes, "trains", "infinite or not a number"),
    (Fails, "trains", "OverflowError: too much"),
    (DrawsFromElsewhere, "repeats", "two fits with the same seed"),
    (Remembers, "trains again", r"a second fit of the same Trainer .* `reset`"),
    (OwnRun, "hook order", r"ran as on_run_start, reset, done, advance, .* Documented: skip, reset"),
    (NeverAsks, "hook order", "ran as advance, advance"),
    (StartsOnly, "hook order", "on_train_start came without on_train_end"),
    (EndsOnly, "hook order", "on_train_end came without on_train_start"),
    (LeavesEvaluationMode, "leaves no trace", r"head.training of the module is False, and was True"),
    (SetsTrainingMode, "leaves no trace", r"backbone.0.training of the module is True, and was False"),
    (Freezes, "leaves no trace", r"requires_grad of head.bias of the module is False"),
    (LeavesAnAttribute, "leaves no trace", r"TinyClassifier._descent of the module is there, and was None"),
    (LeavesAMethod, "leaves no trace", r"TinyClassifier.training_step of the module is replaced"),
    (LeavesAHook, "leaves no trace", r"number of head._forward_hooks of the module is 1, and was 0"),
    (LeavesGradientsOff, "leaves no trace", "gradients were left off"),
    (SavesItself, "plain state", r"it\['state_dict'\]\['rows'\]\[1\]\['device'\] is of the type SavesItself"),
    (LoadsNothing, "plain state", "comes back different"),
    (OnlyOutermost, "nests", "inside an outer loop it trained nothing"),
    (CountsRuns, "nests", "of two inner runs"),
    (Swallows, "survives errors", "an error of the module was swallowed"),
    (HalfDone, "survives errors", r"after an error inside it, requires_grad of backbone.0.weight"),
    (KeepsWhatAnErrorLeft, "survives errors", "the next fit came to other weights"),
]


def broken(loop, slot="fit_loop", **settings):
    with pytest.raises(ContractError) as caught:
        check_loop(loop, slot, **settings)
    return caught.value


@pytest.mark.parametrize(("loop", "point", "reason"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_loop_is_found_out(loop, point, reason):
    error = broken(loop)
    assert error.point == point
    assert re.match(rf'{loop.__name__} in fit_loop does not keep "{point}": .*{reason}', str(error))
    assert torch.is_grad_enabled()


def test_the_loop_that_the_broken_ones_come_from_is_whole():
    check_loop(Descent)


def test_weights_that_change_in_validation():
    assert broken(TrainsInValidation, "validate_loop").point == "trains"


def test_a_slot_that_is_not_used():
    error = broken(YieldLoop, "manual_loop")
    assert error.point == "hook order"
    assert "nothing ran it" in str(error)


def test_the_error_is_an_assertion_and_one_of_ours():
    error = broken(Fails)
    assert isinstance(error, AssertionError)
    assert isinstance(error, TorchloopsError)
    assert isinstance(error.__cause__, OverflowError)


def test_random_numbers_of_the_caller_are_left_alone():
    state = torch.get_rng_state()
    check_loop(FitLoop)
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_loop(FitLoop)
    assert not list(tmp_path.iterdir())


def test_a_loop_is_copied():
    loop = FitLoop(max_epochs=1)
    check_loop(loop, max_epochs=3)
    assert loop.progress.total == 0
    assert loop._trainer is None


def test_data_module_and_settings_of_ones_own():
    seen = []

    class Module(TinyClassifier):
        def __init__(self):
            super().__init__(in_features=8, num_classes=3)

        def on_train_end(self):
            seen.append((self.trainer.current_epoch, self.trainer.global_step))

    check_loop(
        TrainingEpochLoop,
        "epoch_loop",
        make_module=Module,
        make_data=lambda: random_loader(32, 8, in_features=8, num_classes=3),
        max_epochs=3,
        trainer_arguments={"accumulate_grad_batches": 2},
    )
    assert set(seen) == {(3, 6)}


def test_a_module_without_parts_is_fine():
    class Flat(TinyClassifier):
        def __init__(self):
            super().__init__()
            del self.backbone, self.head
            self.weight = nn.Parameter(torch.zeros(32, 10))

        def forward(self, inputs):
            return inputs @ self.weight

    check_loop(OptimizerLoop, "optimizer_loop", make_module=Flat)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((FitLoop, "fit_lop"), r"There is no slot 'fit_lop'.*Did you mean \"fit_loop\"\?"),
        ((lambda: None,), "returned None"),
        ((FitLoop, "fit_loop.epoch_lop"), "There is no loop 'epoch_lop' to replace"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(ConfigurationError, match=words):
        check_loop(*arguments)


def test_a_factory_that_returns_one_loop_twice():
    loop = FitLoop()
    with pytest.raises(ConfigurationError, match="the same one twice"):
        check_loop(lambda: loop)


def test_a_loop_of_a_trainer_is_not_copied(make_trainer):
    with pytest.raises(ConfigurationError, match="stands in a Trainer"):
        check_loop(make_trainer().fit_loop)


def test_an_unknown_point_to_leave_out():
    with pytest.raises(ConfigurationError, match=r"no point 'nest' .*Did you mean \"nests\"\?"):
        check_loop(FitLoop, leave_out="nest")
