"""How much disk the project may take for what it can do without."""

import math
import os

from kdcore.errors import UserError


def in_bytes(variable: str, default: float) -> float:
    """What an environment variable allows, in gigabytes.

    Args:
        variable: its name.
        default: gigabytes, where it is not set.

    Raises:
        UserError: it is no number from 0 upwards.
    """
    given = os.environ.get(variable, str(default))
    try:
        allowed = float(given)
    except ValueError:
        allowed = math.nan
    if not allowed >= 0:
        raise UserError(f"{variable}={given}: must be a number of gigabytes; 0 keeps none")
    return allowed * 1e9
