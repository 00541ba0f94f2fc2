"""A sweep's folder -> report/index.html (one self-contained page), report.md and verdicts.json."""

from vlmbench.report.build import comparison_table, state_table, write_report

__all__ = ["comparison_table", "state_table", "write_report"]
