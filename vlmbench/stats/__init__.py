"""Intervals, paired comparisons, corrections and power. Records of one group (a part) are never taken as independent.

Nothing is assumed that few records could contradict: a figure without observed spread still has an interval, because
half a miss (or one changed group) is always added to what was seen.
"""

from vlmbench.stats.calibrate import Calibration, calibrate, uncalibrated
from vlmbench.stats.compare import Comparison, Interval, compare, holm, interval, verdict
from vlmbench.stats.estimates import estimate, estimate_rate
from vlmbench.stats.roc import GRID, RocBand, roc_band
from vlmbench.stats.threshold import Threshold, cheapest_threshold

__all__ = [
    "GRID",
    "Calibration",
    "Comparison",
    "Interval",
    "RocBand",
    "Threshold",
    "calibrate",
    "cheapest_threshold",
    "compare",
    "estimate",
    "estimate_rate",
    "holm",
    "interval",
    "roc_band",
    "uncalibrated",
    "verdict",
]
