"""The result model of measurements and its forms: JSON (`RunResult.to_dict`) and text (`format_result`)."""

from __future__ import annotations

from ippm.report.result import RunResult
from ippm.report.text import format_result

__all__ = ["RunResult", "format_result"]
