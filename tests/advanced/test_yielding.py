"""YieldLoop: a training step that yields a loss for each optimizer."""

import contextlib

import pytest
import torch
from torch import nn

from torchloops import (
    ActiveLearningDataModule,
    ActiveLearningLoop,
    Callback,
    KFoldDataModule,
    KFoldLoop,
    Loop,
    LoopModule,
    YieldLoop,
)
from torchloops.errors import ConfigurationError
from torchloops.testing import RecordingCallback, TinyClassifier, random_batches, random_dataset

BATCHES = [batch[0][:, :8] for batch in random_batches(5, 16)]


class Pair(LoopModule):
    """A generator and a critic; the critic's part re-uses the generator's output."""

    def __init__(self, optimizer=torch.optim.Adam, lr=1e-2):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8))
        self.critic = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
        self.optimizer, self.lr = optimizer, lr
        self.forward_passes = 0

    def generate(self, real):
        self.forward_passes += 1
        return self.generator(real[:, :4])

    def losses(self, real, fake):
        judge = nn.functional.binary_cross_entropy_with_logits
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        return judge(self.critic(real), ones) + judge(self.critic(fake.detach()), zeros)

    def fooled(self, fake):
        return nn.functional.binary_cross_entropy_with_logits(self.critic(fake), torch.ones(len(fake), 1))

    def training_step(self, batch, batch_idx):
        fake = self.generate(batch)
        loss = self.fooled(fake)
        self.log("generator/loss", loss)
        yield loss
        loss = self.losses(batch, fake)
        self.log("critic/loss", loss)
        yield loss

    def configure_optimizers(self):
        return [self.optimizer(part.parameters(), lr=self.lr) for part in (self.generator, self.critic)]


class NamedPair(Pair):
    """The critic first, twice a batch; the generator on every second batch."""

    def training_step(self, batch, batch_idx):
        fake = self.generate(batch)
        yield self.losses(batch, fake), "critic"
        yield self.losses(batch, fake), "critic"
        if batch_idx % 2:
            yield self.fooled(fake), "generator"

    def configure_optimizers(self):
        generator, critic = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.StepLR(critic, 1, 0.5)
        return {"generator": generator, "critic": {"optimizer": critic, "lr_scheduler": scheduler}}


def seeded(cls=Pair, **arguments):
    torch.manual_seed(0)
    return cls(**arguments)


def fit(make_trainer, module, batches=BATCHES, loop=None, **arguments):
    trainer = make_trainer(**{"max_epochs": 2, **arguments})
    trainer.fit_loop.epoch_loop.batch_loop.connect(optimizer_loop=loop or YieldLoop())
    trainer.fit(module, batches)
    return trainer


def step(optimizer, loss, parameters, clip=None):
    optimizer.zero_grad()
    loss.backward(inputs=list(parameters))
    if clip:
        nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("clip", [None, 0.05])
def test_weights_equal_those_of_a_plain_loop(make_trainer, clip):
    module, plain = seeded(), seeded()
    trainer = fit(make_trainer, module, gradient_clip_val=clip)
    generator, critic = plain.configure_optimizers()
    for _ in range(2):
        for batch in BATCHES:
            fake = plain.generate(batch)
            step(generator, plain.fooled(fake), list(plain.generator.parameters()), clip)
            step(critic, plain.losses(batch, fake), list(plain.critic.parameters()), clip)
    assert equal(module, plain)
    assert module.forward_passes == 10
    assert trainer.global_step == 20
    assert set(trainer.callback_metrics) >= {"generator/loss", "critic/loss"}


def test_named_parts_step_twice_or_not_at_all(make_trainer):
    module, plain = seeded(NamedPair), seeded(NamedPair)
    trainer = fit(make_trainer, module)
    names = plain.configure_optimizers()
    generator, critic, scheduler = names["generator"], *names["critic"].values()
    for _ in range(2):
        for batch_idx, batch in enumerate(BATCHES):
            fake = plain.generate(batch)
            for _ in range(2):
                step(critic, plain.losses(batch, fake), list(plain.critic.parameters()))
            if batch_idx % 2:
                step(generator, plain.fooled(fake), list(plain.generator.parameters()))
        scheduler.step()
    assert equal(module, plain)
    assert trainer.global_step == 2 * (2 * 5 + 2)
    assert trainer.optimizers[1].param_groups[0]["lr"] == pytest.approx(0.0025)


def test_an_index_names_an_optimizer_too(make_trainer):
    class ByIndex(Pair):
        def training_step(self, batch, batch_idx):
            fake = self.generate(batch)
            yield self.losses(batch, fake), 1
            yield self.fooled(fake), 0

    module = seeded(ByIndex)
    before = [p.detach().clone() for p in module.parameters()]
    assert fit(make_trainer, module).global_step == 20
    assert all(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_none_leaves_an_optimizer_out(make_trainer):
    class Skips(Pair):
        def training_step(self, batch, batch_idx):
            fake = self.generate(batch)
            yield self.fooled(fake) if batch_idx == 0 else None
            yield {"loss": self.losses(batch, fake), "note": batch_idx}

    outputs = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, module, output, batch, batch_idx):
            outputs.append(output)

    trainer = fit(make_trainer, seeded(Skips), max_epochs=1, callbacks=[Watch()])
    assert trainer.global_step == 6
    assert [len(first) for first, _ in outputs] == [1, 0, 0, 0, 0]
    assert [second["note"] for _, second in outputs] == [0, 1, 2, 3, 4]
    assert not any(second["loss"].requires_grad for _, second in outputs)


def test_an_optimizer_may_be_left_out_of_a_whole_batch(make_trainer):
    class Quiet(NamedPair):
        def training_step(self, batch, batch_idx):
            if batch_idx == 0:
                yield self.losses(batch, self.generate(batch)), "critic"

    assert fit(make_trainer, seeded(Quiet), max_epochs=1).global_step == 1


def test_code_after_a_yield_sees_the_new_weights_and_the_last_part_runs(make_trainer):
    class Watch(Pair):
        seen = ()

        def training_step(self, batch, batch_idx):
            before = self.generator[0].weight.detach().clone()
            yield self.fooled(self.generate(batch))
            changed = not torch.equal(before, self.generator[0].weight)
            before = self.critic[0].weight.detach().clone()
            yield self.losses(batch, self.generate(batch))
            self.seen += ((changed, not torch.equal(before, self.critic[0].weight)),)

    module = seeded(Watch)
    fit(make_trainer, module, max_epochs=1)
    assert module.seen == ((True, True),) * 5


def test_only_the_parameters_of_a_part_get_gradients(make_trainer):
    seen = []

    class Watch(Callback):
        def on_after_backward(self, trainer, module):
            seen.append([part[0].weight.grad is not None for part in (module.generator, module.critic)])

    class CriticFirst(Pair):  # one forward pass of the generator, used after the critic's step
        def training_step(self, batch, batch_idx):
            fake = self.generate(batch)
            yield self.losses(batch, fake), 1
            yield self.fooled(fake), 0

    fit(make_trainer, seeded(CriticFirst), BATCHES[:1], callbacks=[Watch()], max_epochs=1)
    assert seen == [[False, True], [True, True]]
    module = seeded(CriticFirst)
    before = module.critic[0].weight.grad
    fit(make_trainer, module, BATCHES[:1], max_epochs=1)
    critic_only = seeded(CriticFirst)
    optimizer = critic_only.configure_optimizers()[1]
    step(
        optimizer,
        critic_only.losses(BATCHES[0], critic_only.generate(BATCHES[0])),
        list(critic_only.critic.parameters()),
    )
    assert before is None
    assert torch.equal(module.critic[0].weight.grad, critic_only.critic[0].weight.grad)


def test_a_module_with_its_own_backward_is_called_with_the_others_switched_off(make_trainer):
    class Own(Pair):
        calls, flags = 0, ()

        def backward(self, loss):
            self.calls += 1
            self.flags += (tuple(part[0].weight.requires_grad for part in (self.generator, self.critic)),)
            loss.backward()

    own, usual = seeded(Own), seeded()
    fit(make_trainer, own, max_epochs=1)
    fit(make_trainer, usual, max_epochs=1)
    assert equal(own, usual)
    assert own.flags == ((True, False), (False, True)) * 5
    assert all(parameter.requires_grad for parameter in own.parameters())


def test_gradients_accumulate_and_steps_come_when_due(make_trainer):
    module, plain = seeded(), seeded()
    trainer = fit(make_trainer, module, accumulate_grad_batches=2, max_epochs=1)
    optimizers = plain.configure_optimizers()
    parts = [list(plain.generator.parameters()), list(plain.critic.parameters())]
    for batch_idx, batch in enumerate(BATCHES):
        fake, due = plain.generate(batch), batch_idx in (1, 3, 4)
        for optimizer, part, loss in zip(optimizers, parts, (plain.fooled, None), strict=True):
            if batch_idx in (0, 2, 4):
                optimizer.zero_grad()
            ((loss(fake) if loss else plain.losses(batch, fake)) / 2).backward(inputs=part)
            if due:
                optimizer.step()
    assert equal(module, plain)
    assert trainer.global_step == 6


def test_an_optimizer_left_out_of_the_last_batch_of_an_accumulation_still_steps(make_trainer):
    class EveryOther(NamedPair):
        def training_step(self, batch, batch_idx):
            fake = self.generate(batch)
            yield self.losses(batch, fake), "critic"
            if batch_idx % 2 == 0:
                yield self.fooled(fake), "generator"

    calls = RecordingCallback()
    trainer = fit(
        make_trainer, seeded(EveryOther), BATCHES[:4], accumulate_grad_batches=2, max_epochs=1, callbacks=[calls]
    )
    assert trainer.global_step == 4
    assert calls.calls.count("on_before_optimizer_step") == 4


def test_the_same_optimizer_twice_and_accumulation_is_refused(make_trainer):
    with pytest.raises(ConfigurationError, match=r"NamedPair.training_step yields twice for optimizer 'critic'"):
        fit(make_trainer, seeded(NamedPair), accumulate_grad_batches=2)


def test_every_part_runs_under_the_precision(make_trainer):
    class Types(Pair):
        seen = ()

        def training_step(self, batch, batch_idx):
            for part in (self.fooled, lambda fake: self.losses(batch, fake)):
                fake = self.generate(batch)
                self.seen += (fake.dtype,)
                yield part(fake)
            self.seen += (self.generate(batch).dtype,)

    module = seeded(Types)
    fit(make_trainer, module, precision="bf16-mixed", max_epochs=1)
    assert set(module.seen) == {torch.bfloat16}
    assert torch.get_autocast_dtype("cpu") is torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")


def test_hooks_run_for_each_part(make_trainer):
    calls = RecordingCallback()
    fit(make_trainer, seeded(), BATCHES[:1], max_epochs=1, callbacks=[calls])
    start = calls.calls.index("on_train_batch_start")
    part = ["on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"]
    assert calls.calls[start : start + 10] == ["on_train_batch_start", *part, *part, "on_train_batch_end"]


def test_a_module_that_steps_its_optimizers_itself_gets_a_closure(make_trainer):
    class Steps(Pair):
        def optimizer_step(self, epoch, batch_idx, optimizer, closure):
            optimizer.step(closure=closure)

    own, usual = seeded(Steps), seeded()
    assert fit(make_trainer, own).global_step == 20
    fit(make_trainer, usual)
    assert equal(own, usual)

    class Twice(Pair):
        def optimizer_step(self, epoch, batch_idx, optimizer, closure):
            closure()
            closure()

    with pytest.raises(ConfigurationError, match="called its closure twice"):
        fit(make_trainer, seeded(Twice))


def test_parts_that_share_a_graph_keep_it_on_request(make_trainer):
    class Shares(LoopModule):
        def __init__(self):
            super().__init__()
            self.heads = nn.ModuleList([nn.Linear(8, 1, bias=False), nn.Linear(8, 1, bias=False)])

        def training_step(self, batch, batch_idx):
            total = (self.heads[0](batch) * self.heads[1](batch)).square().mean()
            yield total
            yield total

        def configure_optimizers(self):
            return [torch.optim.SGD(head.parameters(), lr=0.0) for head in self.heads]

    with pytest.raises(RuntimeError, match=r"backward through the graph a second time"):
        fit(make_trainer, Shares())
    assert fit(make_trainer, Shares(), loop=YieldLoop(retain_graph=True)).global_step == 20


# errors


class Bad(Pair):
    """Yields what ``self.what`` says."""

    def __init__(self, what):
        super().__init__()
        self.what, self.closed = what, False

    def training_step(self, batch, batch_idx):
        fake = self.generate(batch)
        losses = {"generator": self.fooled(fake), "critic": self.losses(batch, fake), "none": None}
        losses |= {"vector": losses["critic"].expand(3), "number": 1.0, "detached": losses["critic"].detach()}
        try:
            for name, *target in self.what:
                yield (losses.get(name, name), *target) if target else losses.get(name, name)
        finally:
            self.closed = True


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ([("generator",)], r"Bad.training_step yields too few losses: 1, but configure_optimizers gives 2 optimizers"),
        ([], r"too few losses: 0"),
        (
            [("generator",), ("critic",), ("critic",)],
            r"Bad.training_step yields too many losses: yield 3, .* 2 optimizers",
        ),
        ([("generator",), ("vector",)], r"yield 2 gave a tensor of shape \(3,\)"),
        ([("generator",), ("number",)], r"yield 2 gave float"),
        ([("generator",), ("detached",)], r"yield 2 of Bad.training_step has no gradient"),
        (
            [("generator", "critic")],
            r"yielded a loss for 'critic'; .* the indices 0 to 1. For names return a dictionary",
        ),
        ([("generator", 2)], r"yielded a loss for 2; configure_optimizers gives the indices 0 to 1"),
        ([("generator", True)], r"yielded a loss for True"),
        ([("generator", 0, 1)], r"tuple of 3 items \(yield 1\)"),
        ([("generator", 0), ("critic",)], r"some losses with a name and some without \(yield 2\)"),
        ([("critic", 0)], r"The loss yielded for optimizer 0 depends on none of its parameters"),
    ],
)
def test_wrong_yields_are_named_and_counted(make_trainer, what, message):
    module = seeded(Bad, what=what)
    with pytest.raises(ConfigurationError, match=message):
        fit(make_trainer, module)
    assert module.closed
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_an_unknown_name_gets_a_suggestion(make_trainer):
    class Misspelt(NamedPair):
        def training_step(self, batch, batch_idx):
            yield self.losses(batch, self.generate(batch)), "critik"

    with pytest.raises(ConfigurationError, match=r"names \['generator', 'critic'\].*Did you mean \"critic\""):
        fit(make_trainer, seeded(Misspelt))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda self, batch, batch_idx: self.fooled(self.generate(batch)), "Changed.training_step returned Tensor"),
        (lambda self, batch, batch_idx: [1], "Changed.training_step returned list"),
    ],
)
def test_a_step_that_is_no_generator_is_refused(make_trainer, body, message):
    changed = type("Changed", (Pair,), {"training_step": body})
    with pytest.raises(ConfigurationError, match=message):
        fit(make_trainer, seeded(changed))


def test_a_returned_value_is_refused(make_trainer):
    class Returns(Pair):
        def training_step(self, batch, batch_idx):
            fake = self.generate(batch)
            yield self.fooled(fake)
            yield self.losses(batch, fake)
            return {"loss": 0}

    with pytest.raises(ConfigurationError, match="returned dict after 2 yields"):
        fit(make_trainer, seeded(Returns))


def test_lbfgs_is_refused_with_the_reason(make_trainer):
    with pytest.raises(
        ConfigurationError, match=r"optimizer 0, LBFGS: it evaluates the loss many times.*cannot be rewound"
    ):
        fit(make_trainer, seeded(optimizer=torch.optim.LBFGS))


def test_frequencies_time_splits_and_no_optimizer_are_refused(make_trainer):
    class Frequent(Pair):
        def configure_optimizers(self):
            return [{"optimizer": optimizer, "frequency": 1} for optimizer in super().configure_optimizers()]

    class Recurrent(Pair):
        truncated_bptt_steps = 2

    class Without(Pair):
        def configure_optimizers(self):
            return []

    for cls, message in ((Frequent, "frequencies"), (Without, "no optimizer")):
        with pytest.raises(ConfigurationError, match=message):
            fit(make_trainer, seeded(cls))
    with pytest.raises(ConfigurationError, match="truncated_bptt_steps"):
        fit(make_trainer, seeded(Recurrent), [(batch,) for batch in BATCHES])


def test_a_frozen_part_is_named(make_trainer):
    class Frozen(Pair):
        def training_step(self, batch, batch_idx):
            self.critic.requires_grad_(False)
            yield self.fooled(self.generate(batch)), 1

    with pytest.raises(ConfigurationError, match="No parameter of optimizer 1 requires a gradient"):
        fit(make_trainer, seeded(Frozen))


def test_other_loops_name_yield_loop(make_trainer):
    with pytest.raises(ConfigurationError, match=r"training_step yields.*connect\(optimizer_loop=YieldLoop\(\)\)"):
        make_trainer(max_epochs=1).fit(seeded(optimizer=torch.optim.SGD, cls=OneYield), BATCHES)

    class Manual(OneYield):
        automatic_optimization = False

    with pytest.raises(ConfigurationError, match="manual optimization never runs"):
        make_trainer(max_epochs=1).fit(seeded(Manual), BATCHES)


class OneYield(Pair):
    def training_step(self, batch, batch_idx):
        yield self.fooled(self.generate(batch))

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), lr=self.lr)


def test_one_optimizer_and_one_yield(make_trainer):
    assert fit(make_trainer, seeded(OneYield)).global_step == 10


def test_an_error_in_a_part_closes_the_generator(make_trainer):
    module = seeded(Bad, what=[("generator",), ("critic",)])

    class Fails(Callback):
        def on_before_backward(self, trainer, module, loss):
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fit(make_trainer, module, callbacks=[Fails()])
    assert module.closed


def test_names_of_optimizers_work_without_yields_too(make_trainer):
    class Plain(Pair):
        def training_step(self, batch, batch_idx, optimizer_idx):
            fake = self.generate(batch)
            return (self.losses(batch, fake), self.fooled(fake))[optimizer_idx]

        def configure_optimizers(self):
            generator, critic = super().configure_optimizers()
            return {"critic": critic, "generator": {"optimizer": generator}}

    trainer = make_trainer(max_epochs=1)
    trainer.fit(seeded(Plain), BATCHES)
    assert trainer.run.optimization.names == ["critic", "generator"]
    assert trainer.global_step == 10


class TwoRuns(Loop):
    """Trains twice from the same weights."""

    def __init__(self, fit_loop):
        super().__init__()
        self.fit_loop, self.steps = fit_loop, []

    @property
    def done(self):
        return self.progress.current == 2

    def on_run_start(self):
        self.start = self.trainer.snapshot()

    def advance(self):
        with self.trainer.isolated(f"run_{self.progress.current}", start=self.start) as run:
            self.fit_loop.run()
        self.steps.append(run.steps)


def test_it_runs_in_isolated_inner_runs_and_trains_alike(make_trainer):
    module = seeded()
    trainer = make_trainer(max_epochs=2)
    trainer.fit_loop.epoch_loop.batch_loop.connect(optimizer_loop=YieldLoop())
    outer = TwoRuns(trainer.fit_loop)
    trainer.fit_loop = outer
    trainer.fit(module, BATCHES)
    alone = seeded()
    fit(make_trainer, alone)
    assert equal(module, alone)
    assert outer.steps == [20, 20]


class Halves(TinyClassifier):
    """A classifier whose backbone and head have an optimizer each."""

    def training_step(self, batch, batch_idx):
        features = self.backbone(batch[0])
        yield nn.functional.cross_entropy(self.head(features.detach()), batch[1]), "head"
        yield nn.functional.cross_entropy(self.head(features), batch[1]), "backbone"

    def configure_optimizers(self):
        return {name: torch.optim.SGD(getattr(self, name).parameters(), lr=0.1) for name in ("backbone", "head")}


@pytest.mark.parametrize("outer", ["active learning", "folds"])
def test_it_runs_inside_the_outer_loops(make_trainer, outer):
    trainer = make_trainer(max_epochs=1)
    trainer.fit_loop.epoch_loop.batch_loop.connect(optimizer_loop=YieldLoop())
    if outer == "folds":
        loop, data = KFoldLoop(num_folds=2), KFoldDataModule(random_dataset(64), batch_size=16)
    else:
        settings = {"initial_num_labels": 20, "query_size": 4, "batch_size": 8, "heuristic": "entropy"}
        loop, data = ActiveLearningLoop(max_rounds=2), ActiveLearningDataModule(random_dataset(64), **settings)
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    trainer.fit(seeded(Halves), datamodule=data)
    assert len(loop.folds if outer == "folds" else loop.rounds) == 2


def test_a_cut_run_goes_on_where_it_was(make_trainer, tmp_path):
    class Cut(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.current_epoch == 1 and batch_idx == 2:
                trainer.save_checkpoint(tmp_path / "cut.ckpt")
                raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        fit(make_trainer, seeded(NamedPair), callbacks=[Cut()])
    resumed, whole = seeded(NamedPair), seeded(NamedPair)
    trainer = make_trainer(max_epochs=2)
    trainer.fit_loop.epoch_loop.batch_loop.connect(optimizer_loop=YieldLoop())
    trainer.fit(resumed, BATCHES, ckpt_path=tmp_path / "cut.ckpt")
    fit(make_trainer, whole)
    assert equal(resumed, whole)
