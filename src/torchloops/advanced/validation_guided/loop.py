"""ValidationGuidedLoop: a guide loss steers every gradient step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from torchloops.advanced.validation_guided.guide import GuideBatches, GuidePass
from torchloops.advanced.validation_guided.scaling import Scale, warn_if_cancelled
from torchloops.advanced.validation_guided.settings import check_guide_data, check_settings
from torchloops.advanced.validation_guided.split import GuideSplit, cut_guide
from torchloops.advanced.validation_guided.steps import GuidedSteps
from torchloops.data.fingerprint import check_same, describe
from torchloops.errors import ConfigurationError
from torchloops.loops.training_epoch_loop import TrainingEpochLoop
from torchloops.schema import Either, check

if TYPE_CHECKING:
    from torchloops.trainer.data import Batches

__all__ = ["ValidationGuidedLoop"]

_STATE = {"guide": Either({"run?": str}, None), "functions?": {str: Any}}


class ValidationGuidedLoop(TrainingEpochLoop):
    """Scale the gradients of every step by a function of the loss on a guide split.

        for batch_idx, batch in enumerate(batches):
            loss = training_step(batch, batch_idx)
            optimizer.zero_grad(); loss.backward()
            guide_loss = mean loss of training_step on the next guide batches    # no gradients, eval mode
            scale_gradients(optimizer, 1 / guide_loss)                           # then clipping
            optimizer.step()

    Use it where a small set of samples is trusted more than the rest. With plain SGD, ``1 / guide_loss`` acts as a
    learning-rate schedule: it starts small and grows as the guide loss falls. Clipping by norm cancels it exactly,
    Adam and its relatives cancel all but its drift; both are warned of. ``scale="reweight"`` (Ren et al. 2018)
    changes the direction instead: it weighs the samples of a batch by how well their gradients agree with the
    guide's. A step costs one forward pass more for each guide batch; with "reweight" about five times a plain step.

    What the guide pass leaves open is decided so: parts are in eval mode, gradients are off, nothing is logged,
    metrics and random generators are untouched, all restored after it; one guide pass for each optimizer's step,
    also under accumulation; gradients are scaled after the loss scaling of "16-mixed" is undone and before
    clipping; the guide loss is averaged over processes, so all use one factor.

    The page's plain loop, to the last bit: ``guide_batches=None, guide_reduction="sum", guide_mode="train",
    epsilon=0.0, min_scale=None, max_scale=None``.

    Args:
        min_steps, max_steps: as in `TrainingEpochLoop`.
        guide_dataloader: an iterable of batches as ``training_step`` takes them, such as a small, clean set.
            Default: a split cut from the training data, see ``guide_split``.
        guide_split: samples (int) or share (float) cut from the training data, stratified where each sample has
            one class, by ``seed``; they are not trained on. Validation and test data are never touched.
        scale: "inverse", "reweight", or a function ``(guide_loss, history) -> factor`` of tensors of one element;
            ``history`` is a tuple of the earlier guide losses, the newest last, at most 1000.
        guide_batches: guide batches for a guide pass, going round the guide split; None: all of them.
        every_n_steps: optimizer steps between guide passes; the factor is kept in between.
        guide_step: ``(module, batch) -> loss``. Default: the loss of ``training_step``.
        guide_mode: "eval", or "train" to leave dropout and batch norm as in training.
        guide_reduction: "mean" or "sum" over the batches of a guide pass.
        epsilon: "inverse" takes a smaller guide loss for this one.
        min_scale, max_scale: limits of the factor; None: no limit.
        sample_losses: for "reweight": ``(module, batch) -> losses (batch_size,)``. Default: ``"losses"`` in the
            dictionary that ``training_step`` returns, else cross-entropy of a classifier.
        target_key: key or position of the label in a sample. Default: the second entry of a tuple, or the one key of
            a dict among ``label``, ``labels``, ``target``, ``targets``, ``y``.
        seed: of the split and of the guide pass's own random generators.
        log_guide: log, averaged over the epoch, ``guide/loss``, ``guide/scale``, ``guide/grad_norm`` and
            ``guide/grad_norm_scaled``; for "reweight" the share of samples with a weight as
            ``guide/share_weighted``. With several optimizers ``/<name or index>`` is added.

    Attributes:
        guide_indices: positions of the guide split in the training data set; None with a ``guide_dataloader``.

    Raises:
        ConfigurationError: an argument makes no sense, the module optimizes manually, or its ``training_step``
            cannot give a guide loss.

    Example:
        >>> loop = ValidationGuidedLoop(guide_split=0.1, max_scale=5.0)
        >>> trainer.fit_loop.replace(epoch_loop=loop)        # doctest: +SKIP

    References:
        The first example of PyTorch Lightning's page on loops; Ren, Zeng, Yang, Urtasun 2018, "Learning to
        Reweight Examples for Robust Deep Learning", arXiv 1803.09050.
    """

    fixed_settings = (
        "guide_split", "guide_batches", "every_n_steps", "guide_mode", "guide_reduction", "epsilon", "min_scale",
        "max_scale", "seed", "log_guide",
    )  # fmt: skip

    def __init__(
        self,
        min_steps: int | None = None,
        max_steps: int | None = None,
        *,
        guide_dataloader: Any = None,
        guide_split: int | float = 0.1,
        scale: str | Callable[[Tensor, Sequence[Tensor]], Any] = "inverse",
        guide_batches: int | None = 1,
        every_n_steps: int = 1,
        guide_step: Callable[[Any, Any], Tensor] | None = None,
        guide_mode: Literal["eval", "train"] = "eval",
        guide_reduction: Literal["mean", "sum"] = "mean",
        epsilon: float = 1e-8,
        min_scale: float | None = 0.0,
        max_scale: float | None = 10.0,
        sample_losses: Callable[[Any, Any], Tensor] | None = None,
        target_key: str | int | None = None,
        seed: int = 0,
        log_guide: bool = True,
    ) -> None:
        super().__init__(min_steps, max_steps)
        self._guide_dataloader = guide_dataloader
        self.guide_split = guide_split
        self.scale = scale
        self.guide_batches = guide_batches
        self.every_n_steps = every_n_steps
        self.guide_step = guide_step
        self.guide_mode = guide_mode
        self.guide_reduction = guide_reduction
        self.epsilon = epsilon
        self.min_scale = min_scale
        self.max_scale = max_scale
        self.sample_losses = sample_losses
        self.target_key = target_key
        self.seed = seed
        self.log_guide = log_guide
        check_settings(self)
        self._cut: GuideSplit | None = None
        self._saved: dict[str, Any] | None = None
        self._has_warned = False
        self._calls_before = self._steps_before = 0

    @property
    def guide_dataloader(self) -> Any:
        """The guide batches that were given; None: a split of the training data guides."""
        return self._guide_dataloader

    @property
    def guide_indices(self) -> list[int] | None:
        """Positions of the guide split in the training data set of the current or last run."""
        return None if self._cut is None else self._cut.indices

    # the loop

    def on_train_dataloader(self, loader: Any) -> Any:
        if self._guide_dataloader is not None:
            return loader
        self._cut = cut_guide(loader, self.guide_split, self.seed, self.trainer.datamodule, self.target_key)
        return self._cut.rest

    def on_run_start(self, batches: Batches) -> None:
        guided = self._guided_steps() or self._begin_run()
        self._calls_before, self._steps_before = guided.calls, self.trainer.global_step
        super().on_run_start(batches)

    def on_run_end(self) -> None:
        super().on_run_end()
        guided = self._guided_steps()
        stepped = self.trainer.global_step > self._steps_before
        if guided is not None and stepped and guided.calls == self._calls_before:
            raise ConfigurationError(
                f"ValidationGuidedLoop guided no step: {type(self.batch_loop).__name__} steps the optimizers itself. "
                "Use the built-in loops below it, or YieldLoop, or call trainer.run.gradient_hooks before each step."
            )

    def _guided_steps(self) -> GuidedSteps | None:
        """The guidance that this loop hung on the current run."""
        for hook in self.trainer.run.gradient_hooks:
            owner = getattr(hook, "__self__", None)
            if isinstance(owner, GuidedSteps) and owner.loop is self:
                return owner
        return None

    def _begin_run(self) -> GuidedSteps:
        trainer = self.trainer
        check_guide_data(self, trainer)
        loader = self._guide_dataloader
        if loader is None and self._cut is not None:
            loader = self._cut.guide
        loader = trainer.engine.setup_loader(loader, trainer.use_distributed_sampler)
        data = GuideBatches(loader, self.guide_batches)
        guided = GuidedSteps(self, GuidePass(trainer, data, self.guide_step, self.guide_mode, self.seed))
        saved, self._saved = self._saved, None
        if saved is not None and saved["run"] == trainer.run_name:
            guided.load_state_dict(saved["steps"])
        if self.scale != "reweight" and not self._has_warned and trainer.is_global_zero:
            clips = bool(trainer.gradient_clip_val) and trainer.gradient_clip_algorithm == "norm"
            self._has_warned = warn_if_cancelled(trainer.optimizers, clips)
        return guided

    def _scale_function(self) -> Scale:
        return Scale(self.scale, self.epsilon, self.min_scale, self.max_scale)

    # state

    @property
    def _functions(self) -> dict[str, Any]:
        return {name: describe(getattr(self, name)) for name in ("scale", "guide_step", "sample_losses")}

    def on_save_checkpoint(self) -> dict[str, Any]:
        guide = self._saved
        if self._trainer is not None:
            guided, name = self._guided_steps(), self.trainer.run_name
            if guided is not None:
                guide = {"run": name, "steps": guided.state_dict()}
            elif guide is not None and guide["run"] != name:
                guide = None  # of an inner run that is over
        return {**super().on_save_checkpoint(), "guide": guide, "functions": self._functions}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        check(state_dict, _STATE, "ValidationGuidedLoop: state")
        check_same("ValidationGuidedLoop", state_dict.get("functions", {}), self._functions)
        guide = state_dict["guide"]
        self._saved = guide if guide is None or "run" in guide else {"run": "", "steps": guide}  # the latter: format 1
