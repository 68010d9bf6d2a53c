"""What a run leaves behind: its folder, tables, plots and one page. Heavy libraries load on first use."""

from torchloops.report.active_learning import comparison_table, write_active_learning_report
from torchloops.report.environment import collect_environment, describe_device
from torchloops.report.expected import compare_with_expected
from torchloops.report.folder import RunFolder, to_yaml
from torchloops.report.metrics import join_metrics
from torchloops.report.page import write_page
from torchloops.report.plots import plot_accuracy_vs_labels, plot_queried_samples
from torchloops.report.progress import RoundProgress
from torchloops.report.summary import accuracy_table, area_under_curve, summarise, summarise_rounds

__all__ = [
    "RoundProgress",
    "RunFolder",
    "accuracy_table",
    "area_under_curve",
    "collect_environment",
    "compare_with_expected",
    "comparison_table",
    "describe_device",
    "join_metrics",
    "plot_accuracy_vs_labels",
    "plot_queried_samples",
    "summarise",
    "summarise_rounds",
    "to_yaml",
    "write_active_learning_report",
    "write_page",
]
