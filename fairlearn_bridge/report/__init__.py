"""The report: one HTML page of a run with its figures, or of several runs side by side."""

from fairlearn_bridge.report.page import write_report
from fairlearn_bridge.report.side_by_side import write_side_by_side

__all__ = ["write_report", "write_side_by_side"]
