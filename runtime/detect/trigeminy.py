"""Every third beat a ventricular one."""

from holdover.runtime.detect.cycle import Cycle


class Trigeminy(Cycle):
    """Two normal beats and a ventricular one, `cycles` times (manuals of bedside monitors: three)."""

    labels = ("ventricular_trigeminy",)
    period = 3
