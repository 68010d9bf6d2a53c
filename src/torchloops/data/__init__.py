"""The one place that knows the user's data: labels, inputs, loader settings, the meaning of answers, fingerprints."""

from torchloops.data.asking import Asker, UnusedEntriesWarning
from torchloops.data.datamodule import DataModule
from torchloops.data.labels import LabelForm, Labels
from torchloops.data.outputs import OUTPUTS, Meaning, UnscoredOutputsWarning
from torchloops.data.proxy import DataModuleProxy
from torchloops.data.reader import Reader
from torchloops.data.source import RandomViewWarning, Source, source_of

__all__ = [
    "OUTPUTS",
    "Asker",
    "DataModule",
    "DataModuleProxy",
    "LabelForm",
    "Labels",
    "Meaning",
    "RandomViewWarning",
    "Reader",
    "Source",
    "UnscoredOutputsWarning",
    "UnusedEntriesWarning",
    "source_of",
]
