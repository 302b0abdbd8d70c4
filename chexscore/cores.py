"""How many cores this process may really use, and what they can."""

import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

__all__ = ["has_vnni", "usable_cores"]

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
DESCRIPTION = Path("/proc/cpuinfo")
OF_VERSION_2 = "0::"
"""How the line of cgroup version 2 begins in OWN_CGROUP; cgroups(7)."""


@cache
def has_vnni() -> bool:
    """Whether the chip adds up products of 8 bits without cutting off; false where it does not tell."""
    try:
        return bool(re.search(r"^flags\b.*\bavx(512)?_vnni\b", DESCRIPTION.read_text(), re.MULTILINE))
    except OSError:
        return False


def usable_cores() -> int:
    """Cores by affinity or, where that is less, by the quota of a container or systemd unit; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *_quotas()]))


def _quotas() -> Iterator[int]:
    """What the quotas of this process's cgroup, and of those above it, come to; none on other systems."""
    try:
        lines = OWN_CGROUP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith(OF_VERSION_2):
            group = Path(line.removeprefix(OF_VERSION_2).lstrip("/"))
            for level in (group, *group.parents):
                with suppress(OSError, ValueError):  # the root has no such file; "max" stands for no quota
                    quota, period = map(int, (CGROUPS / level / "cpu.max").read_text().split())
                    yield math.ceil(quota / period)
