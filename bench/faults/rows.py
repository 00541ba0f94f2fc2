"""Every row of the matrix."""

from bench.faults import damage, disks, kills, machines, processes, stages, surroundings
from bench.faults.fault import Fault

FAULTS: tuple[Fault, ...] = (
    *kills.FAULTS,
    *stages.FAULTS,
    *disks.FAULTS,
    *damage.FAULTS,
    *surroundings.FAULTS,
    *machines.FAULTS,
    *processes.FAULTS,
)
LATER = machines.LATER

__all__ = ["FAULTS", "LATER", "Fault"]
