"""Write the report of a sweep: index.html (self-contained), report.md and verdicts.json."""

from vlmbench.report.build import comparison_table, read_sweep, state_table, write_report

__all__ = ["comparison_table", "read_sweep", "state_table", "write_report"]
