"""Loop by itself: the order of a run, what ends it, its tree, and its state."""

import pytest
import torch
from scratch import SeenBatches, Times
from torch.utils.data import DataLoader, Dataset

from torchloops import FitLoop, Loop, TrainingBatchLoop, TrainingEpochLoop
from torchloops.errors import ConfigurationError
from torchloops.testing import RecordingCallback, TinyClassifier, random_batches, random_dataset


class Recorder(Loop):
    """Writes down every method of a run, in order; ``n`` iterations."""

    def __init__(self, n=2, child=None):
        super().__init__()
        self.n = n
        self.child = child
        self.calls = []

    def note(self, name, *args):
        self.calls.append((name, *args) if args else name)

    @property
    def done(self):
        self.note("done")
        return self.progress.current >= self.n

    @property
    def skip(self):
        self.note("skip")
        return self.n < 0

    def on_skip(self):
        self.note("on_skip")
        return "skipped"

    def reset(self):
        self.note("reset")

    def on_run_start(self, *args):
        self.note("on_run_start", *args)

    def on_advance_start(self, *args):
        self.note("on_advance_start", *args)

    def advance(self, *args):
        self.note("advance", *args)
        if self.child is not None:
            self.child.run()

    def on_advance_end(self):
        self.note("on_advance_end")

    def on_run_end(self):
        self.note("on_run_end")
        return "output"

    def teardown(self):
        self.note("teardown")


# the order of a run


def test_order_of_a_run():
    loop = Recorder(2)
    assert loop.run("a", "b") == "output"
    iteration = [("on_advance_start", "a", "b"), ("advance", "a", "b"), "on_advance_end"]
    assert loop.calls == [
        "skip", "reset", ("on_run_start", "a", "b"), "done", *iteration, "done", *iteration, "done", "on_run_end",
    ]  # fmt: skip


def test_done_is_asked_before_the_first_iteration():
    loop = Recorder(0)
    assert loop.run() == "output"
    assert loop.calls == ["skip", "reset", "on_run_start", "done", "on_run_end"]


def test_a_skipped_loop_does_nothing_else():
    loop = Recorder(-1)
    assert loop.run(1) == "skipped"
    assert loop.calls == ["skip", "on_skip"]


def test_progress_counts_this_run_and_all_runs():
    loop = Recorder(3)
    loop.run()
    loop.run()
    assert (loop.progress.current, loop.progress.total, loop.progress.running) == (3, 6, False)


def test_progress_counts_an_iteration_before_its_end_hook():
    class Counter(Recorder):
        def on_advance_end(self):
            self.note("after", self.progress.current)

    loop = Counter(2)
    loop.run()
    assert [call for call in loop.calls if call[0] == "after"] == [("after", 1), ("after", 2)]


def test_hooks_put_on_an_instance_are_called():
    loop = Recorder(1)
    loop.on_run_end = lambda: "from the instance"
    assert loop.run() == "from the instance"
    plain = Times(None, 2)
    seen = []
    plain.advance = lambda: seen.append("advance")
    plain.on_advance_end = lambda: seen.append("end")
    plain.run()
    assert seen == ["advance", "end", "advance", "end"]


def test_run_context_is_left_after_an_error():
    class Guarded(Recorder):
        open = False

        def run_context(self):
            loop = self

            class Context:
                def __enter__(self):
                    loop.open = True

                def __exit__(self, *error):
                    loop.open = False

            return Context()

        def advance(self):
            self.note("open", self.open)
            raise OverflowError

    loop = Guarded()
    with pytest.raises(OverflowError):
        loop.run()
    assert ("open", True) in loop.calls
    assert not loop.open


def test_a_loop_runs_without_a_trainer_and_says_so_when_asked_for_one():
    loop = Recorder(1)
    loop.run()
    with pytest.raises(ConfigurationError, match="Recorder is not attached to a Trainer"):
        loop.trainer  # noqa: B018


# StopIteration


@pytest.mark.parametrize("where", ["on_advance_start", "advance"])
def test_stop_iteration_of_the_loop_ends_it(where):
    class Stops(Recorder):
        pass

    def stop(self, *args):
        self.note(where, *args)
        if self.progress.current == 1:
            raise StopIteration

    setattr(Stops, where, stop)
    loop = Stops(10)
    assert loop.run() == "output"
    assert loop.progress.current == 1
    assert loop.calls.count("on_advance_end") == 1
    assert loop.calls[-1] == "on_run_end"


def test_a_bare_next_in_a_loops_own_advance_ends_it():
    class OverData(Loop):
        done = False

        def on_run_start(self, data):
            self.iterator = iter(data)
            self.seen = []

        def advance(self):
            self.seen.append(next(self.iterator))

        def on_run_end(self):
            return self.seen

    assert OverData().run([1, 2, 3]) == [1, 2, 3]


def test_stop_iteration_of_an_inner_loop_ends_only_that():
    class Stops(Loop):
        done = False

        def advance(self):
            raise StopIteration

    outer = Times(Stops(), 3)
    outer.run()
    assert outer.progress.current == 3


@pytest.mark.parametrize("hook", ["on_run_start", "on_run_end", "reset"])
def test_stop_iteration_that_an_inner_loop_leaks_does_not_end_the_outer_one_silently(hook):
    class Leaks(Recorder):
        pass

    def leak(self):
        next(iter([]))

    setattr(Leaks, hook, leak)

    class Inner(Leaks):
        pass

    outer = Times(Inner(), 3)
    with pytest.raises(RuntimeError, match=r"Inner.leak .*raised StopIteration.*Times"):
        outer.run()


class LeakyModule(TinyClassifier):
    def training_step(self, batch, batch_idx):
        next(iter([]))


class LeakyValidation(TinyClassifier):
    def validation_step(self, batch, batch_idx):
        next(iter([]))


class LeakyEpochEnd(TinyClassifier):
    def on_train_epoch_end(self):
        next(iter([]))


@pytest.mark.parametrize(
    ("module_class", "named"),
    [
        (LeakyModule, "LeakyModule.training_step"),
        (LeakyValidation, "LeakyValidation.validation_step"),
        (LeakyEpochEnd, "LeakyEpochEnd.on_train_epoch_end"),
    ],
)
def test_stop_iteration_leaked_by_a_module_is_an_error_that_names_it(make_trainer, module_class, named):
    with pytest.raises(RuntimeError, match=rf"{named} \(line \d+\) raised StopIteration"):
        make_trainer(max_epochs=1).fit(module_class(), random_batches(2), random_batches(1))


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_train_batch_end", "on_train_epoch_end"])
def test_stop_iteration_leaked_by_a_callback_is_an_error_that_names_it(make_trainer, hook):
    class Leaky(RecordingCallback):
        def __init__(self):
            super().__init__()
            del self.__dict__[hook]

    def leak(self, *args):
        next(iter([]))

    setattr(Leaky, hook, leak)
    with pytest.raises(RuntimeError, match=r"Leaky.leak .*raised StopIteration"):
        make_trainer(max_epochs=1, callbacks=Leaky()).fit(TinyClassifier(), random_batches(2))


def test_stop_iteration_leaked_by_a_data_set_is_an_error_that_names_it(make_trainer):
    class LeakyData(Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            if index == 5:
                next(iter([]))
            return torch.zeros(32), 0

    trainer = make_trainer(max_epochs=1)
    with pytest.raises(RuntimeError, match=r"LeakyData.__getitem__ .*raised StopIteration"):
        trainer.fit(TinyClassifier(), DataLoader(LeakyData(), batch_size=2))


def test_stop_iteration_raised_by_a_loop_above_the_batch_ends_the_epoch(make_trainer):
    class TwoBatches(TrainingEpochLoop):
        def advance(self, data):
            if self.progress.current == 2:
                raise StopIteration
            super().advance(data)

    trainer = make_trainer(max_epochs=3)
    trainer.fit_loop.epoch_loop = TwoBatches()
    trainer.fit(TinyClassifier(), random_batches(5))
    assert (trainer.current_epoch, trainer.global_step) == (3, 6)


# restarting and state


class Leaf(Loop):
    """Two iterations a run; notes `restarting` in each, and calls ``at`` in the iteration where it is due."""

    def __init__(self, n=2):
        super().__init__()
        self.n = n
        self.seen = []

    @property
    def done(self):
        return self.progress.current >= self.n

    def advance(self):
        self.seen.append((self.progress.current, self.restarting))


class Middle(Leaf):
    def __init__(self, child, n=2):
        super().__init__(n)
        self.child = child

    def advance(self):
        self.seen.append((self.progress.current, self.restarting))
        self.child.run()
        self.seen.append((self.progress.current, self.restarting))


class SaveInside(Leaf):
    """Saves the state of ``root`` in its last iteration of the ``nth`` run."""

    root = None
    state = None

    def advance(self):
        super().advance()
        if self.progress.total == 5 and self.root is not None:
            SaveInside.state = self.root().state_dict()


def test_restarting_is_true_during_the_first_iteration_on_every_level():
    root = Middle(Middle(SaveInside()))
    root.child.child.root = lambda: root
    root.run()
    state = SaveInside.state
    assert state["child.child.progress"] == {"current": 1, "total": 5, "running": True}

    again = Middle(Middle(SaveInside()))
    again.load_state_dict(state)
    assert [loop.restarting for loop in (again, again.child, again.child.child)] == [True] * 3
    again.run()
    # saved in: root iteration 1, middle iteration 0, leaf iteration 1
    assert again.child.child.seen == [(1, True), (0, False), (1, False)]
    assert again.child.seen == [(0, True), (0, True), (1, False), (1, False)]
    assert again.seen == [(1, True), (1, True)]
    assert [loop.restarting for loop in (again, again.child, again.child.child)] == [False] * 3
    assert (again.progress.total, again.child.progress.total, again.child.child.progress.total) == (2, 4, 8)


def test_a_finished_loop_starts_over_after_a_load():
    loop = Leaf(3)
    loop.run()
    again = Leaf(3)
    again.load_state_dict(loop.state_dict())
    assert not again.restarting
    again.run()
    assert again.seen == [(0, False), (1, False), (2, False)]
    assert again.progress.total == 6


class Stateful(Leaf):
    def __init__(self, value=None, children=()):
        super().__init__()
        self.value = value
        self.children = list(children)

    def on_save_checkpoint(self):
        return {"value": self.value}

    def on_load_checkpoint(self, state_dict):
        self.value = state_dict["value"]


def test_state_goes_round_through_a_file(tmp_path):
    loop = Stateful(torch.arange(3), [Stateful("a"), Stateful({"b": [1.5]})])
    loop.run()
    torch.save(loop.state_dict(), tmp_path / "state")
    again = Stateful(None, [Stateful(), Stateful()])
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert torch.equal(again.value, torch.arange(3))
    assert [child.value for child in again.children] == ["a", {"b": [1.5]}]
    assert again.progress.total == 2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: Leaf(), "at the top loop it holds Stateful, the tree holds Leaf"),
        (lambda: Stateful("x", [Leaf()]), r"at children\.0 it holds Stateful, the tree holds Leaf"),
        (lambda: Stateful("x", [Stateful(), Stateful()]), r"at children\.1 it holds no loop, the tree holds Stateful"),
        (lambda: Stateful("x"), r"at children\.0 it holds Stateful, the tree holds no loop"),
    ],
    ids=["other class", "other child", "more children", "fewer children"],
)
def test_state_of_another_tree_is_refused(other, message):
    state = Stateful("x", [Stateful("y")]).state_dict()
    with pytest.raises(ConfigurationError, match=message):
        other().load_state_dict(state)


# the tree


def test_loops_in_lists_tuples_and_dicts_are_children(make_trainer):
    class Holder(Leaf):
        def __init__(self):
            super().__init__()
            self.listed = [Leaf(), [Leaf()]]
            self.paired = (Leaf(),)
            self.named = {"a": Leaf(), "b": 3}

    trainer = make_trainer()
    trainer.fit_loop = holder = Holder()
    children = [*holder.listed[:1], *holder.listed[1], *holder.paired, holder.named["a"]]
    assert all(child.trainer is trainer for child in children)
    paths = {key.removesuffix("type") for key in holder.state_dict() if key.endswith("type")}
    assert paths == {"", "listed.0.", "listed.1.0.", "paired.0.", "named.a."}


def test_replace_reaches_into_lists_and_dicts():
    holder = Stateful("x", [Leaf(), Leaf(5)])
    holder.named = {"a": Leaf()}
    old = holder.children[1]
    assert holder.replace(**{"children.1": Stateful}) is old
    assert type(holder.children[1]) is Stateful
    holder.replace(**{"named.a": Leaf(7)})
    assert holder.named["a"].n == 7
    with pytest.raises(ConfigurationError, match="There is no loop '9'"):
        holder.replace(**{"children.9": Leaf})


def test_a_cycle_is_an_error_that_draws_it():
    a, b = Middle(None), Middle(None)
    a.child = b
    with pytest.raises(ConfigurationError, match=r"cannot stand below itself.*Middle -> Middle -> Middle"):
        b.child = a
    assert b.child is None


def test_one_loop_may_stand_in_two_places(make_trainer):
    shared = Leaf()
    trainer = make_trainer()
    trainer.fit_loop = Middle(Stateful("x", [shared, shared]))
    trainer.fit_loop.run()
    assert shared.trainer is trainer


def test_forgetting_super_init_is_explained():
    class Forgot(Loop):
        def __init__(self):
            self.value = 3

    with pytest.raises(AttributeError, match=r"Forgot.__init__ has not called super\(\).__init__\(\)"):
        Forgot()


def test_forgetting_super_init_without_attributes_is_explained_too(make_trainer):
    class Forgot(Loop):
        def __init__(self):
            pass

    with pytest.raises(AttributeError, match=r"Forgot.__init__ has not called super\(\).__init__\(\)"):
        make_trainer().fit_loop = Forgot()


def test_a_missing_attribute_keeps_its_own_error():
    with pytest.raises(AttributeError, match="'Leaf' object has no attribute 'nothing'"):
        Leaf().nothing  # noqa: B018


def test_an_attribute_error_inside_a_property_is_not_hidden():
    class Broken(Leaf):
        @property
        def done(self):
            return self.progress.currant > 3

    with pytest.raises(AttributeError, match="currant"):
        Broken().run()


def test_connect_by_default_assigns():
    parent, child = Leaf(), Leaf()
    parent.connect(anything=child)
    assert parent.anything is child


@pytest.mark.parametrize(
    ("loops", "message"),
    [
        ({"epoch_lop": TrainingEpochLoop()}, "FitLoop has no loop 'epoch_lop'.*Did you mean \"epoch_loop\""),
        ({"epoch_loop": TrainingEpochLoop}, "expects a Loop instance.*call `replace`"),
        ({"epoch_loop": 3}, "expects a Loop instance, got 3"),
    ],
)
def test_connect_refuses(loops, message):
    fit_loop = FitLoop()
    before = fit_loop.epoch_loop
    with pytest.raises(ConfigurationError, match=message):
        fit_loop.connect(**loops)
    assert fit_loop.epoch_loop is before


def test_print_draws_the_tree_with_progress():
    root = Middle(Stateful("x", [Leaf(), Leaf()]))
    root.child.children[1].progress.total = 7
    assert str(root).splitlines() == [
        "Middle (idle, 0 this run, 0 in all)",
        "└── child: Stateful (idle, 0 this run, 0 in all)",
        "    ├── children.0: Leaf (idle, 0 this run, 0 in all)",
        "    └── children.1: Leaf (idle, 0 this run, 7 in all)",
    ]


def test_print_shows_a_running_loop():
    class Prints(Leaf):
        def advance(self):
            self.text = str(self)

    loop = Prints(3)
    loop.run()
    assert loop.text == "Prints (running, 2 this run, 2 in all)"


def test_loop_tree_draws_all_four(make_trainer):
    trainer = make_trainer(max_epochs=2)
    trainer.fit(TinyClassifier(), random_batches(3), random_batches(2))
    lines = trainer.loop_tree().splitlines()
    assert [line.partition(":")[0] for line in lines if not line.startswith((" ", "│", "├", "└"))] == [
        "fit_loop", "validate_loop", "test_loop", "predict_loop",
    ]  # fmt: skip
    assert lines[0] == "fit_loop: FitLoop (idle, 2 this run, 2 in all)"
    assert lines[1] == "└── epoch_loop: TrainingEpochLoop (idle, 3 this run, 6 in all)"
    assert "    │   └── manual_loop: ManualLoop (idle, 0 this run, 0 in all)" in lines


def test_a_replaced_child_stays_attached(make_trainer):
    trainer = make_trainer(max_epochs=1)
    old = trainer.fit_loop.epoch_loop.batch_loop
    trainer.fit_loop.epoch_loop.batch_loop = TrainingBatchLoop()
    assert trainer.fit_loop.epoch_loop.batch_loop.optimizer_loop.trainer is trainer
    assert old.trainer is trainer  # a loop that wraps it may still run it
    trainer.fit(TinyClassifier(), random_batches(2))
    assert trainer.global_step == 2


def test_a_wrapped_loop_trains(make_trainer):
    class Twice(Loop):
        """Runs the loop that stood in its slot twice on every batch."""

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        @property
        def done(self):
            return self.progress.current == 2

        def advance(self, batch, batch_idx):
            self.inner.run(batch, batch_idx)

    trainer = make_trainer(max_epochs=1)
    epoch_loop = trainer.fit_loop.epoch_loop
    epoch_loop.batch_loop = Twice(epoch_loop.batch_loop)
    module = SeenBatches()
    trainer.fit(module, random_batches(3))
    assert trainer.global_step == 6
    assert module.seen["train"][0::2] == module.seen["train"][1::2]


# teardown


def test_teardown_reaches_the_whole_tree(make_trainer):
    leaf, other = Recorder(1), Recorder(1)
    trainer = make_trainer()
    trainer.fit_loop = Recorder(1, child=leaf)
    trainer.test_loop = other
    trainer.fit(TinyClassifier(), random_batches(1))
    assert [loop.calls.count("teardown") for loop in (trainer.fit_loop, leaf, other)] == [1, 1, 1]


def test_teardown_comes_after_an_error_too(make_trainer):
    class Fails(Recorder):
        def advance(self):
            raise OverflowError

    leaf = Fails(1)
    trainer = make_trainer()
    trainer.fit_loop = Recorder(1, child=leaf)
    with pytest.raises(OverflowError):
        trainer.fit(TinyClassifier(), random_batches(1))
    assert leaf.calls[-1] == "teardown"
    assert trainer.fit_loop.calls[-1] == "teardown"


def test_stop_iteration_leaked_by_a_collate_function_is_an_error_that_names_it(make_trainer):
    def leaky_collate(samples):
        return next(iter(()))

    loader = torch.utils.data.DataLoader(random_dataset(8), batch_size=4, collate_fn=leaky_collate)
    with pytest.raises(RuntimeError, match=r"leaky_collate \(line \d+\) raised StopIteration"):
        make_trainer(max_epochs=1).fit(TinyClassifier(), loader)


def test_stop_iteration_leaked_by_a_function_called_in_advance_is_an_error_that_names_it():
    def helper(iterator):
        return next(iterator)

    class Asks(Loop):
        done = property(lambda self: False)

        def advance(self):
            helper(iter(()))

    with pytest.raises(RuntimeError, match=r"helper \(line \d+\) raised StopIteration"):
        Asks().run()


def test_an_iterator_class_that_is_empty_ends_the_loop():
    class Empty:
        def __iter__(self):
            return self

        def __next__(self):
            return self._load()

        def _load(self):
            raise StopIteration

    class Asks(Loop):
        done = property(lambda self: False)

        def advance(self):
            next(Empty())

        def on_run_end(self):
            return "ended"

    assert Asks().run() == "ended"


@pytest.mark.parametrize("name", ["done", "skip"])
def test_a_plain_method_where_a_property_is_needed_is_refused(name):
    with pytest.raises(ConfigurationError, match=f"{name}.*@property"):
        type("Forgot", (Loop,), {name: lambda self: True, "advance": lambda self: None})


def test_slots_refuse_what_is_no_loop_instance(make_trainer):
    trainer = make_trainer()
    with pytest.raises(ConfigurationError, match=r"epoch_loop takes a Loop instance.*TrainingEpochLoop\(\.\.\.\)"):
        trainer.fit_loop.epoch_loop = TrainingEpochLoop
    with pytest.raises(ConfigurationError, match=r"val_loop takes a Loop instance.*limit_val_batches=0"):
        trainer.fit_loop.epoch_loop.val_loop = None
    with pytest.raises(ConfigurationError, match='Did you mean "fit_loop"'):
        trainer.fit_lop = FitLoop()
    with pytest.raises(ConfigurationError, match='Did you mean "epoch_loop"'):
        trainer.fit_loop.epoc_loop = TrainingEpochLoop()


def test_repr_of_a_loop_is_its_tree():
    assert "└── epoch_loop: TrainingEpochLoop" in repr(FitLoop())
