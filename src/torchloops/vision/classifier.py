"""ImageClassifier: a backbone, a head, and the steps to train and use them."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from torchloops.errors import ConfigurationError, DataError
from torchloops.module import LoopModule, evaluating
from torchloops.vision.backbones import build_backbone
from torchloops.vision.depth import check_value_range
from torchloops.vision.heads import build_head, mismatch
from torchloops.vision.hyperparameters import plain_hyperparameters, refuse_own, restore_head, restore_output
from torchloops.vision.optimizers import (
    OptimizerChoice,
    SchedulerChoice,
    build_optimizer,
    build_scheduler,
    check_optimizer,
)
from torchloops.vision.output import Labels, Logits, Output, Probabilities
from torchloops.vision.predicting import input_batches, join_logits, list_inputs
from torchloops.vision.preprocessing import Preprocessing
from torchloops.vision.training_data import check_normalisation, image_settings

__all__ = ["ImageClassifier"]

_CHECKPOINT_KEY = "torchloops.vision"


class ImageClassifier(LoopModule):
    """Classify images: ``head(backbone(images))``, trained with cross entropy.

    Logs ``train/loss``, ``train/accuracy`` and the same for ``val`` and ``test``, as means over the samples
    of an epoch. It keeps the class names and the preprocessing of the data it is trained with, also in
    checkpoints, so that `predict` treats a picture as it was treated in validation.

    Args:
        backbone: "mlp" or "small_cnn" (for small images), the name of a classification model of torchvision
            or timm ("timm/resnet18" where both have one and timm's is wanted), or a module that turns images
            into features ``(B, num_features)``. A named model comes without its own last layer.
        head: turns features into logits ``(B, num_classes)``; default: one linear layer.
        num_classes: default: the outputs of ``head``.
        weights: of the backbone: None (random), "DEFAULT" (downloads pretrained ones) or another member of
            torchvision's weights enum, or a file (.safetensors, .pt, .pth), whose classifier is left out.
        output: what `predict` gives: `Probabilities`, `Labels` or `Logits`.
        optimizer: "adam", "adamw", "sgd" (momentum 0.9), or a callable ``(params, lr=...) -> optimizer``. By
            name, the fused kernel is used where the device has one.
        learning_rate: of the optimizer.
        lr_scheduler: None, "cosine" or "one_cycle" (over the whole run, per step), or a callable
            ``(optimizer) -> scheduler`` or Lightning's scheduler dictionary.
        head_dropout: probability, 0 to below 1, of a dropout before the default head's linear layer.
        backbone_options: further arguments of a named backbone, for instance ``{"in_features": 784}``.
        label_smoothing: 0 to 1, of the training loss.
        metrics: torchmetrics by name, logged as ``val/<name>`` and so on; each stage gets a copy of its own.

    Raises:
        ConfigurationError: an unknown name, weights that do not fit, a head that does not fit the backbone.

    Example:
        >>> model = ImageClassifier(backbone="mlp", num_classes=10)
        >>> model(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    _paths = ("weights",)

    def __init__(
        self,
        backbone: str | nn.Module = "resnet18",
        head: nn.Module | None = None,
        num_classes: int | None = None,
        weights: str | os.PathLike[str] | None = None,
        output: Output = Probabilities(),  # noqa: B008 - it has no state
        optimizer: OptimizerChoice = "adam",
        learning_rate: float = 1e-3,
        lr_scheduler: SchedulerChoice = None,
        *,
        head_dropout: float = 0.0,
        backbone_options: Mapping[str, Any] | None = None,
        label_smoothing: float = 0.0,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        hparams = self.__dict__["_hparams"]
        hparams.update(plain_hyperparameters(hparams))
        check_optimizer(optimizer, lr_scheduler, learning_rate)
        refuse_own(backbone)
        built = build_backbone(backbone, weights, dict(backbone_options or {}))
        self.backbone = built.module
        self.backbone_name = built.name
        self.head, self.num_classes = build_head(
            restore_head(head), built.num_features, num_classes, built.name, head_dropout
        )
        self.output = restore_output(output)
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.lr_scheduler = lr_scheduler
        self.label_smoothing = label_smoothing
        self.stage_metrics = _copies(metrics or {})
        self.classes: list[str] = []
        self.preprocessing: Preprocessing | None = None
        self.__dict__["_eval_transform"] = None  # torchvision's transforms are modules; it is no part of the network
        self._expected_statistics = (built.mean, built.std)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(B, num_classes)``.

        Args:
            images: ``(B, C, H, W)``, float and normalised; a uint8 batch is normalised here, as in training.
        """
        if images.dtype == torch.uint8:
            images = (self.preprocessing or Preprocessing()).normalise(images)
        features = self.backbone(images)
        try:
            return self.head(features)
        except RuntimeError as error:
            reason = mismatch(self.head, features, self.backbone_name)
            if reason is None:
                raise
            raise ConfigurationError(reason) from error

    @property
    def output_kind(self) -> str | None:
        """What `predict_step` answers with, or `forward` where that shows names; None: a ``predict_step`` or ``output``
        of yours."""
        if type(self).predict_step is not ImageClassifier.predict_step:
            return None
        return {Probabilities: "probabilities", Logits: "logits", Labels: "logits"}.get(type(self.output))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._step(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> Any:
        """Return ``output`` for a batch of images, or of ``(images, targets)``."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return self.output(self(images), self.classes)

    def configure_optimizers(self) -> Any:
        # all parameters: a frozen one has no gradient and is skipped, and can be unfrozen later
        refuse_own(self.optimizer)
        refuse_own(self.lr_scheduler)
        fused = (
            getattr(self.trainer, "precision", None) != "16-mixed"
        )  # its gradient scaler cannot clip before a fused step
        optimizer = build_optimizer(self.optimizer, list(self.parameters()), self.learning_rate, fused=fused)
        if self.lr_scheduler is None:
            return optimizer
        steps = self.trainer.estimated_stepping_batches if isinstance(self.lr_scheduler, str) else 0
        return {"optimizer": optimizer, "lr_scheduler": build_scheduler(self.lr_scheduler, optimizer, steps)}

    def setup(self, stage: str) -> None:
        """Take over class names and preprocessing from the data, and check that model and data fit."""
        settings = image_settings(getattr(self.trainer, "datamodule", None))
        if settings is None:
            return
        if settings.classes and len(settings.classes) != self.num_classes:
            raise ConfigurationError(
                f"The data has {len(settings.classes)} classes, but the model has "
                f"num_classes={self.num_classes}. "
                "Build it with num_classes=datamodule.num_classes."
            )
        if stage != "fit" and self.preprocessing is not None:
            return
        self.classes = settings.classes
        self.preprocessing = settings.preprocessing
        self.__dict__["_eval_transform"] = settings.custom_transform
        check_normalisation(settings.preprocessing, self._expected_statistics, self.backbone_name)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        preprocessing = None if self.preprocessing is None else self.preprocessing.to_dict()
        checkpoint[_CHECKPOINT_KEY] = {"classes": list(self.classes), "preprocessing": preprocessing}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get(_CHECKPOINT_KEY)
        if state is None:
            return
        self.classes = list(state["classes"])
        if state["preprocessing"] is not None:
            self.preprocessing = Preprocessing.from_dict(state["preprocessing"])

    def predict(
        self,
        inputs: Any,
        *,
        output: Output | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        batch_size: int = 16,
        value_range: Sequence[float] | None = None,
    ) -> Any:
        """Predict single pictures, many, or a folder of them.

        Modes (training or evaluation, of every part) and gradient mode are left as they were.

        Args:
            inputs: a path, a folder (all images in it, sorted), a PIL image, an array ``(H, W, 3)``, a tensor
                ``(C, H, W)`` or ``(B, C, H, W)``, or a list of these. Files, pictures and uint8 tensors are
                resized, cropped and normalised as in validation; float tensors are taken as finished inputs.
            output: default: the one of the constructor.
            transform: of one uint8 image, instead of the one remembered from training.
            batch_size: images in one forward pass.
            value_range: the values that are black and white in pictures of more than 8 bits; default: as in training.

        Returns:
            What ``output`` makes of the logits: a row for one image alone, else one entry per image.

        Raises:
            DataError: a file that is missing or unreadable (it is named), or no image.
            ConfigurationError: the model does not know the preprocessing.
        """
        images, single = list_inputs(inputs)
        transform = transform or self.__dict__["_eval_transform"]
        preprocessing = self.preprocessing
        if preprocessing is not None and value_range is not None:
            preprocessing = replace(preprocessing, value_range=check_value_range(value_range))
        batches = input_batches(images, batch_size, preprocessing, transform)
        with evaluating(self), torch.no_grad():
            logits = join_logits(self(batch.to(self.device)) for batch in batches)
            result = (output or self.output)(logits, self.classes)
        return result[0] if single else result

    def _step(self, batch: Any, stage: str) -> Tensor:
        images, targets = _images_and_targets(batch)
        logits = self(images)
        smoothing = self.label_smoothing if stage == "train" else 0.0
        loss = cross_entropy(logits, targets, label_smoothing=smoothing)
        correct = (logits.detach().argmax(dim=1) == targets).float().mean()
        size = len(targets)
        sync = stage != "train"
        self.log(f"{stage}/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=size, sync_dist=sync)
        self.log(
            f"{stage}/accuracy", correct, on_step=False, on_epoch=True, prog_bar=True, batch_size=size, sync_dist=sync
        )
        metrics: Any = self.stage_metrics[f"stage_{stage}"]
        for name, metric in metrics.items():
            metric.update(logits.detach(), targets)
            self.log(f"{stage}/{name}", metric, on_step=False, on_epoch=True)
        return loss


def _copies(metrics: Mapping[str, Any]) -> nn.ModuleDict:
    """Return a copy of every metric for every stage; no key may be "train", which is a method of modules."""
    stages: Sequence[str] = ("train", "val", "test")
    return nn.ModuleDict(
        {f"stage_{stage}": nn.ModuleDict({k: metric.clone() for k, metric in metrics.items()}) for stage in stages}
    )


def _images_and_targets(batch: Any) -> tuple[Tensor, Tensor]:
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    raise DataError(f"A batch must be (images, targets), got {type(batch).__name__}. Change the data set's items.")
