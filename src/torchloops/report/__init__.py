"""What a run leaves behind: its folder, tables, plots and one page. Heavy libraries load on first use."""

from torchloops.report.active_learning import comparison_table, write_active_learning_report
from torchloops.report.cross_validation import cross_validation_table, summarise_folds, write_kfold_report
from torchloops.report.curves import plot_curves, plot_panels
from torchloops.report.environment import collect_environment, describe_device
from torchloops.report.expected import compare_with_expected
from torchloops.report.folder import RunFolder, to_yaml
from torchloops.report.generation import forward_pass_table, write_generation_report
from torchloops.report.guidance import guidance_table, write_guidance_report
from torchloops.report.kfold_plots import plot_confusion_matrix, plot_scores_by_fold
from torchloops.report.labelling import write_labelling_report
from torchloops.report.metrics import join_metrics
from torchloops.report.page import write_page
from torchloops.report.plots import plot_accuracy_vs_labels, plot_queried_samples
from torchloops.report.progress import RoundProgress
from torchloops.report.samples import SampleGrids, plot_samples_by_epoch
from torchloops.report.study_progress import EpochClock, StudyProgress
from torchloops.report.summary import accuracy_table, area_under_curve, summarise, summarise_rounds

__all__ = [
    "EpochClock",
    "RoundProgress",
    "RunFolder",
    "SampleGrids",
    "StudyProgress",
    "accuracy_table",
    "area_under_curve",
    "collect_environment",
    "compare_with_expected",
    "comparison_table",
    "cross_validation_table",
    "describe_device",
    "forward_pass_table",
    "guidance_table",
    "join_metrics",
    "plot_accuracy_vs_labels",
    "plot_confusion_matrix",
    "plot_curves",
    "plot_panels",
    "plot_queried_samples",
    "plot_samples_by_epoch",
    "plot_scores_by_fold",
    "summarise",
    "summarise_folds",
    "summarise_rounds",
    "to_yaml",
    "write_active_learning_report",
    "write_generation_report",
    "write_guidance_report",
    "write_kfold_report",
    "write_labelling_report",
    "write_page",
]
