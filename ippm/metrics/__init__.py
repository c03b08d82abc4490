"""Metrics of delay, loss, reordering and duplication; each names its RFC, and its registry name where it has one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ippm.metrics.statistics import QUANTILE_DEFINITION, DelayStatistics
    from ippm.metrics.two_way import TwoWayMetrics, two_way_metrics

__all__ = ["QUANTILE_DEFINITION", "DelayStatistics", "TwoWayMetrics", "two_way_metrics"]

_WHERE = {
    "QUANTILE_DEFINITION": "statistics",
    "DelayStatistics": "statistics",
    "TwoWayMetrics": "two_way",
    "two_way_metrics": "two_way",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for: a sender needs one module of this package, and starts sooner without the others."""
    from importlib import import_module

    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"ippm.metrics.{_WHERE[name]}"), name)
