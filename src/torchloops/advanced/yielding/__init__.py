"""Training steps that yield: `YieldLoop` steps an optimizer at every yield. README.md is its card."""

from torchloops.advanced.yielding.loop import YieldLoop

__all__ = ["YieldLoop"]
