"""Every row of the matrix."""

from bench.faults import damage, disks, kills, world
from bench.faults.fault import Fault

FAULTS: tuple[Fault, ...] = (*kills.FAULTS, *disks.FAULTS, *damage.FAULTS, *world.FAULTS)

__all__ = ["FAULTS", "Fault"]
