"""Description of the machine and the software: everything else a result may depend on."""

import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from typing import Any

# Vector instructions that change which kernels torch uses
RELEVANT_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16")


@cache
def cpu_info() -> tuple[str, list[str]]:
    """Return the CPU's model name and those of `RELEVANT_CPU_FLAGS` that it has."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = file.read().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor(), []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", "").split()
    return fields.get("model name", platform.processor()), [flag for flag in RELEVANT_CPU_FLAGS if flag in flags]


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def package_version(module: str) -> str | None:
    """Return the version of an installed module, or None if it is not installed."""
    try:
        return str(import_module(module).__version__)
    except ImportError:
        return None


def environment_info(packages: Sequence[str]) -> dict[str, Any]:
    """Return the versions of `packages`, this one and Python, the machine, and the date, as plain data."""
    import torch

    from fairseq_resmlp import __version__

    name, flags = cpu_info()
    return {
        "versions": {
            "fairseq-resmlp": __version__,
            "python": platform.python_version(),
            **{package: package_version(package) for package in packages},
        },
        "machine": {
            "platform": platform.platform(),
            "cpu": name,
            "flags": flags,
            "cpus": available_cores(),
            "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),
    }
