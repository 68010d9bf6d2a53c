"""Active learning: `ActiveLearningLoop` asks for labels where the model is unsure. README.md is its card."""

from torchloops.advanced.active_learning.annotated import AnnotatedDataModule
from torchloops.advanced.active_learning.baal_heuristics import BaalHeuristic, resolve_heuristic
from torchloops.advanced.active_learning.datamodule import (
    ActiveLearningDataModule,
    SmallLabelledSetWarning,
)
from torchloops.advanced.active_learning.heuristics import (
    BALD,
    Certainty,
    Entropy,
    Heuristic,
    Margin,
    MeanStd,
    Random,
    Variance,
)
from torchloops.advanced.active_learning.labelled_map import LabelledMap, LabelRecord
from torchloops.advanced.active_learning.loop import ActiveLearningLoop
from torchloops.advanced.active_learning.scoring import PoolScores, score_pool
from torchloops.advanced.active_learning.stochastic import mc_dropout
from torchloops.advanced.active_learning.stopping import (
    LabelBudget,
    LabellingMinutes,
    LargestScoreBelow,
    Plateau,
    StudyProgress,
    TargetReached,
)

__all__ = [
    "BALD",
    "ActiveLearningDataModule",
    "ActiveLearningLoop",
    "AnnotatedDataModule",
    "BaalHeuristic",
    "Certainty",
    "Entropy",
    "Heuristic",
    "LabelBudget",
    "LabelRecord",
    "LabelledMap",
    "LabellingMinutes",
    "LargestScoreBelow",
    "Margin",
    "MeanStd",
    "Plateau",
    "PoolScores",
    "Random",
    "SmallLabelledSetWarning",
    "StudyProgress",
    "TargetReached",
    "Variance",
    "mc_dropout",
    "resolve_heuristic",
    "score_pool",
]
