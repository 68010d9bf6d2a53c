"""Labels from people: queries, answers, and where they are kept. Imports no torch."""

from torchloops.annotation.annotators import MaskedLabels, TerminalAnnotator
from torchloops.annotation.events import Agreement, Event, Progress
from torchloops.annotation.exchange import export_class_folders, export_csv, export_label_studio, import_labels
from torchloops.annotation.label_studio import LabelStudioAnnotator
from torchloops.annotation.pool import Sample, index_pool, near_duplicates
from torchloops.annotation.queries import Annotator, Answer, Query
from torchloops.annotation.store import LabelStore
from torchloops.annotation.web import WebAnnotator

__all__ = [
    "Agreement",
    "Annotator",
    "Answer",
    "Event",
    "LabelStore",
    "LabelStudioAnnotator",
    "MaskedLabels",
    "Progress",
    "Query",
    "Sample",
    "TerminalAnnotator",
    "WebAnnotator",
    "export_class_folders",
    "export_csv",
    "export_label_studio",
    "import_labels",
    "index_pool",
    "near_duplicates",
]
