"""The errors, one tree; each is also a built-in, so that either can be caught."""


class HoldoverError(Exception):
    """What went wrong, in words for the user: what was found, what was expected, what to do next."""

    exit_code = 1


class UsageError(HoldoverError, ValueError):
    """An option or a combination of options that cannot be."""

    exit_code = 2


class ConfigError(HoldoverError, ValueError):
    """A configuration that cannot be read, or says something impossible."""

    exit_code = 2


class SourceError(HoldoverError, ValueError):
    """Input that is missing, truncated, or not what it says it is."""

    exit_code = 3


class ModelError(HoldoverError, ValueError):
    """A model file that cannot be loaded or run."""

    exit_code = 4


class ContractError(ModelError):
    """A model whose contract is missing, incomplete or untrue."""


class LedgerError(HoldoverError, OSError):
    """The ledger cannot be opened or written."""

    exit_code = 5


class BrokerError(HoldoverError, ConnectionError):
    """The broker refuses, or cannot be reached where it must be."""

    exit_code = 6
