"""`[models]` of a configuration: where installed models are, who must vouch for them, how long one is on probation."""

import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta


class ModelsOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Models that 'holdover models' installs.

    Attributes
    ----------
    store
        The folder; None: `models` in the state folder of the service, or of the user.
    key
        A public key (Ed25519, PEM) that must have signed every model but the shipped ones; None: none must.
    probation_s
        How long a newly installed model must run before it is no longer rolled back by itself.
    """

    store: str | None = None
    key: str | None = None
    probation_s: Annotated[float, Meta(ge=0, le=86400 * 7)] = 600


def default_store() -> Path:
    """`models` in the state folder: that of a systemd service, else the user's (XDG_STATE_HOME)."""
    if service := os.environ.get("STATE_DIRECTORY"):
        return Path(service.partition(":")[0]) / "models"
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "holdover" / "models"
