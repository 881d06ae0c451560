"""The report of a run: one HTML page with its figures."""

from fairlearn_bridge.report.page import write_report

__all__ = ["write_report"]
