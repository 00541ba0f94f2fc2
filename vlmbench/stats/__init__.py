"""Intervals, paired comparisons, corrections and power.

Records of one part never count as independent. No estimate of zero spread is taken at face value:
half a miss (or one changed part) is always added to what was seen. So every figure has an interval.
"""

from vlmbench.stats.basis import Basis, Source, find_basis
from vlmbench.stats.calibrate import (
    Calibration,
    calibrate,
    calibration_shortages,
)
from vlmbench.stats.clusters import Folded
from vlmbench.stats.compare import Comparison, compare, holm
from vlmbench.stats.decided import Decided, Redrawn, redraw
from vlmbench.stats.estimates import estimate, estimate_rate
from vlmbench.stats.figures import Compared, Costs
from vlmbench.stats.join import (
    Shape,
    deciding,
    join_predictions,
    join_records,
    join_tiles,
    shape_of,
)
from vlmbench.stats.promise import Promise, promise
from vlmbench.stats.roc import GRID, RocBand, roc_band
from vlmbench.stats.rule import Rule, rule_of
from vlmbench.stats.threshold import Threshold, cheapest_threshold, measure_errors

__all__ = [
    "GRID",
    "Basis",
    "Calibration",
    "Compared",
    "Comparison",
    "Costs",
    "Decided",
    "Folded",
    "Promise",
    "Redrawn",
    "RocBand",
    "Rule",
    "Shape",
    "Source",
    "Threshold",
    "calibrate",
    "calibration_shortages",
    "cheapest_threshold",
    "compare",
    "deciding",
    "estimate",
    "estimate_rate",
    "find_basis",
    "holm",
    "join_predictions",
    "join_records",
    "join_tiles",
    "measure_errors",
    "promise",
    "redraw",
    "roc_band",
    "rule_of",
    "shape_of",
]
