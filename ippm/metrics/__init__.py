"""Metrics of delay, loss, reordering and duplication; each names its RFC, and its registry name where it has one."""

from __future__ import annotations

from ippm.metrics.statistics import QUANTILE_DEFINITION, DelayStatistics
from ippm.metrics.two_way import TwoWayMetrics, two_way_metrics

__all__ = ["QUANTILE_DEFINITION", "DelayStatistics", "TwoWayMetrics", "two_way_metrics"]
