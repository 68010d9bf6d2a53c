"""Labels in and out: CSV, folders of class folders, and Label Studio's JSON."""

from torchloops.annotation.exchange.class_folders import export_class_folders
from torchloops.annotation.exchange.csv_table import export_csv
from torchloops.annotation.exchange.importing import import_labels
from torchloops.annotation.exchange.label_studio_json import export_label_studio

__all__ = ["export_class_folders", "export_csv", "export_label_studio", "import_labels"]
