"""Validation-guided training: a guide loss steers every gradient step. README.md is its card."""

from torchloops.advanced.validation_guided.loop import ValidationGuidedLoop
from torchloops.advanced.validation_guided.reweighting import alignments, classification_losses
from torchloops.advanced.validation_guided.scaling import CancelledScaleWarning, scale_gradients
from torchloops.advanced.validation_guided.settings import LeakingGuideWarning

__all__ = [
    "CancelledScaleWarning",
    "LeakingGuideWarning",
    "ValidationGuidedLoop",
    "alignments",
    "classification_losses",
    "scale_gradients",
]
