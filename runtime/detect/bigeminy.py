"""Every second beat a ventricular one."""

from holdover.runtime.detect.cycle import Cycle


class Bigeminy(Cycle):
    """Normal and ventricular by turns, `cycles` times (manuals of bedside monitors: three)."""

    labels = ("ventricular_bigeminy",)
    period = 2
