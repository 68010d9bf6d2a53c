"""The one place that knows the user's data: labels, inputs, loader settings, the meaning of answers, fingerprints."""

from torchloops.data.asking import Asker, UnusedEntriesWarning
from torchloops.data.datamodule import DataModule
from torchloops.data.label_values import LabelForm
from torchloops.data.labels import Labels
from torchloops.data.loader_settings import source_of
from torchloops.data.outputs import OUTPUTS, Meaning, UnscoredOutputsWarning
from torchloops.data.proxy import DataModuleProxy
from torchloops.data.reader import Reader
from torchloops.data.source import RandomViewWarning, Source

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
