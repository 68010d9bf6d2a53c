"""What a run leaves behind: its folder, tables, plots and one page. Heavy libraries load on first use."""

from torchloops.report.environment import collect_environment, describe_device
from torchloops.report.folder import RunFolder, to_yaml
from torchloops.report.page import write_page
from torchloops.report.plots import plot_accuracy_vs_labels, plot_queried_samples
from torchloops.report.summary import accuracy_table, area_under_curve, summarise

__all__ = [
    "RunFolder",
    "accuracy_table",
    "area_under_curve",
    "collect_environment",
    "describe_device",
    "plot_accuracy_vs_labels",
    "plot_queried_samples",
    "summarise",
    "to_yaml",
    "write_page",
]
