"""A mark on the sample clock, in WFDB's vocabulary."""

import msgspec

BEATS = frozenset("NLRBAaJSVrFejnE/fQ?")
"""Symbols that mark a beat (WFDB Programmer's Guide, annotation codes for which isqrs is true)."""


class Annotation(msgspec.Struct, frozen=True, array_like=True):
    """One annotation.

    Attributes
    ----------
    at
        Sample on the source's clock.
    symbol
        WFDB's one-character code: a beat N, S, V, F, Q; "~" a change of signal quality; "+" of rhythm; '"' a note.
    subtype
        For "~": -1 where the signal is lost (shutdown), 0 where it is back.
    aux
        Text that goes with it, such as "(VT".
    score
        For a beat, the model's probability of its class, 0 to 1 (low: unsure); 0 for all else.
    fibrillates
        For a beat, the model's probability that the atria fibrillate or flutter; None where it does not say.
    """

    at: int
    symbol: str
    subtype: int = 0
    aux: str = ""
    score: float = 0.0
    fibrillates: float | None = None

    @property
    def is_beat(self) -> bool:
        """Whether the symbol marks a beat."""
        return self.symbol in BEATS
