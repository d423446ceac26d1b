"""The table of layers."""

from collections.abc import Callable

from holdover.runtime.detect.layer import Layer, Setting
from holdover.runtime.detect.likelihood import Error, Likelihood
from holdover.runtime.detect.view import Level, Mean, Profile, Residual

LAYERS: dict[str, Callable[[Setting], Layer]] = {
    "error": Error,
    "likelihood": Likelihood,
    "residual": Residual,
    "level": Level,
    "mean": Mean,
    "profile": Profile,
}
"""By the name that a contract's detector gives."""
