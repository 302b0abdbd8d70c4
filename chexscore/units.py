"""Durations and limits as people write them."""

import math
import re
from typing import NamedTuple

from chexscore.errors import UsageError

__all__ = ["Limit", "parse_duration", "parse_limit"]

SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(option: str, text: str) -> float:
    """Seconds of "90", "90s", "5m", "1.5h" or "2d", as they are given to an option.

    Raises:
        UsageError: anything else; the text names the option.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    seconds = float(match[1]) * SECONDS[match[2]] if match else math.inf
    if math.isinf(seconds):
        raise UsageError(f"{option}: {text!r} is no duration; 90s, 5m, 6h and 2d are.")
    return seconds


class Limit(NamedTuple):
    """A number, or a share of what there is."""

    text: str
    number: float
    is_share: bool

    def of(self, total: int) -> float:
        """How many of `total` that is."""
        return self.number * total / 100 if self.is_share else self.number


def parse_limit(option: str, text: str) -> Limit:
    """The limit of "12" or "5%", as it is given to an option.

    Raises:
        UsageError: anything else; the text names the option.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", text.strip())
    if match is None:
        raise UsageError(f"{option}: {text!r} is no limit; a number such as 12 and a share such as 5% are.")
    return Limit(text, float(match[1]), bool(match[2]))
