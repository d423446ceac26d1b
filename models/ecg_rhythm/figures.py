"""What the commands of the recipe that only measure have in common: figures to a file, a user's mistakes to a line."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from holdover.export.contract_io import write_whole
from holdover.runtime.errors import HoldoverError


def write_figures(output: Path, measured: Callable[[], Mapping[str, Any]]) -> int:
    """Measure, and write what was found as JSON, whole or not at all; the exit code, 0 if it went well."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(measured(), indent=1, sort_keys=True) + "\n"
        write_whole(output, text.encode())
    except HoldoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {output} cannot be written ({error.strerror}); give another -o", file=sys.stderr)
        return 1
    return 0
