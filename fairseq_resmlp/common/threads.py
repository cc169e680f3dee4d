"""How many threads to use, and how they wait for work. Nothing here loads torch."""

import math
import os
import sys
from pathlib import Path

from fairseq_resmlp.common.errors import InputError

MAX_THREADS = 1024
SPINS = 1_000  # as in scripts/environment.sh; docs/performance.md compares other values


def default_threads() -> int:
    """Return the number of CPU threads to use: OMP_NUM_THREADS if it is set, else the number of available cores.

    Raises:
        InputError: OMP_NUM_THREADS is not a number of threads
    """
    value = os.environ.get("OMP_NUM_THREADS", "").strip()
    if not value:
        return available_cores()
    outermost = value.split(",")[0].strip()  # one number per level of nested parallel regions
    if not (outermost.isdecimal() and 1 <= int(outermost) <= MAX_THREADS):
        raise InputError(f"OMP_NUM_THREADS is {value!r}: set it to a number from 1 to {MAX_THREADS}, or unset it")
    return int(outermost)


def available_cores() -> int:
    """Return the number of CPU cores that this process may use, from its affinity and the quota of its cgroup."""
    return math.ceil(min(len(os.sched_getaffinity(0)), cpu_quota()))


def cpu_quota(root: Path = Path("/")) -> float:
    """Return how many cores the cgroups of this process may keep busy, or infinity.

    Containers and batch systems set this quota. It reduces the CPU time, not the number of visible cores.

    Args:
        root: directory that contains proc and sys
    """
    quota = math.inf
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            mounted = root / "sys/fs/cgroup"
        elif "cpu" in controllers.split(","):
            mounted = root / "sys/fs/cgroup/cpu"
        else:
            continue
        # A group is limited by those above it. In a container, the path can be that of the host, which does not exist.
        group = mounted / path.strip("/")
        for directory in [group, *group.parents]:
            if not directory.is_relative_to(mounted):
                break
            files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
            numbers = " ".join(_read(directory / name) for name in files).split()
            if len(numbers) == 2 and all(number.isdecimal() and int(number) for number in numbers):  # not -1, "max"
                quota = min(quota, int(numbers[0]) / int(numbers[1]))
    return quota


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def set_thread_environment() -> None:
    """Set the environment variables of OpenMP that the caller has not set, for a command that has not loaded torch.

    Without these, torch ignores the quota, and threads that wait for others occupy a core for several milliseconds.
    If another process needs that core, the thread that they wait for cannot run. Threads that do not spin at all have
    to be woken for each operation (docs/performance.md, "Threads").
    """
    if "torch" not in sys.modules:  # OpenMP reads them when torch loads it
        os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or str(available_cores())
        if "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
