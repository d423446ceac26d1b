"""Units of potential, as devices and files spell them, and the factors between them."""

from holdover.runtime.errors import SourceError

POWERS = {"V": 0, "mV": -3, "uV": -6, "nV": -9}
"""Each unit as a power of ten of a volt."""

_MICRO = str.maketrans({"\u00b5": "u", "\u03bc": "u", " ": None})
_SPELLINGS = {
    "microv": "uV", "microvolt": "uV", "microvolts": "uV", "millivolt": "mV", "millivolts": "mV",
    "volt": "V", "volts": "V", "nanovolt": "nV", "nanovolts": "nV",
}  # fmt: skip


def normal(unit: str) -> str:
    """The usual spelling of a unit; one that is not a potential comes back as it is, without outer spaces.

    Examples
    --------
    >>> normal("µV"), normal("microV"), normal("MV "), normal("mmHg")
    ('uV', 'uV', 'mV', 'mmHg')
    """
    plain = unit.translate(_MICRO)
    by_case = {name.lower(): name for name in POWERS}
    return _SPELLINGS.get(plain.lower()) or by_case.get(plain.lower()) or unit.strip()


def factor(have: str, want: str, channel: str = "") -> float:
    """What values in `have` are multiplied by to be in `want`.

    Raises
    ------
    SourceError
        If there is no such factor. Units that are no potentials are only equal to themselves.

    Examples
    --------
    >>> factor("uV", "mV")
    0.001
    """
    have_, want_ = normal(have), normal(want)
    if have_ == want_:
        return 1.0
    if have_ in POWERS and want_ in POWERS:
        return float(10.0 ** (POWERS[have_] - POWERS[want_]))
    whose = f"channel {channel}" if channel else "the signal"
    raise SourceError(
        f"the model wants {want}, {whose} is in {have!r}: name the channel that is in {want}, "
        f"or state the right unit if the file's is wrong (known: {', '.join(POWERS)})"
    )
