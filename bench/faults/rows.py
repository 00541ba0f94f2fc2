"""Every row of the matrix."""

from bench.faults import damage, disks, kills, surroundings
from bench.faults.fault import Fault

FAULTS: tuple[Fault, ...] = (*kills.FAULTS, *disks.FAULTS, *damage.FAULTS, *surroundings.FAULTS)

__all__ = ["FAULTS", "Fault"]
