"""Hardware and software that results may depend on."""

import glob
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

from fairseq_resmlp.common.threads import available_cores

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


def package_version(module: str) -> str | None:
    """Return the version of an installed module, or None if it is not installed."""
    try:
        return str(import_module(module).__version__)
    except ImportError:
        return None


def environment_info(packages: Sequence[str]) -> dict[str, Any]:
    """Return versions, hardware, date and command line, in the types of JSON.

    Args:
        packages: modules whose versions to include, in addition to Python and this package
    """
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


# What each optional dependency is for, and the modules that it consists of
EXTRAS = {
    "server": ("fastapi", "python_multipart", "prometheus_client", "py3langid", "uvicorn"),
    "vision": ("PIL", "kornia", "pytorch_optimizer"),
    "report": ("jinja2", "matplotlib", "tensorboard"),
    "reproduce": ("sacremoses", "tensorboardX"),
    "bench": ("ctranslate2",),
    "ray": ("pandas", "pyarrow", "ray"),
}


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution without importing it, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def missing_modules(names: Sequence[str]) -> list[str]:
    """Return those of `names` that cannot be imported. They are not imported."""
    return [name for name in names if find_spec(name) is None]


def diagnose() -> dict[str, str]:
    """Describe this installation: for each component, its version and what is missing for what. Imports torch only."""
    import torch

    from fairseq_resmlp import __version__

    cpu, flags = cpu_info()
    found = {
        "fairseq-resmlp": f"{__version__}, in {os.path.dirname(os.path.dirname(os.path.dirname(__file__)))}",
        "Python": f"{platform.python_version()}, {sys.executable}",
        "torch": f"{torch.__version__}",
        "fairseq": _diagnose_fairseq(),
        "CPU": f"{cpu}, {', '.join(flags) or 'no AVX2'}; torch uses {torch.backends.cpu.get_cpu_capability()}",
        "cores": f"{available_cores()}, of which torch uses {torch.get_num_threads()} by default",
        "GPU": ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) or "none found",
    }
    for extra, modules in EXTRAS.items():
        missing = missing_modules(modules)
        remedy = f"missing {', '.join(missing)}: pip install 'fairseq-resmlp[{extra}]'"
        found[f"extra {extra}"] = remedy if missing else "installed"
    return found


def _diagnose_fairseq() -> str:
    version = installed_version("fairseq-fixed") or installed_version("fairseq")
    spec = find_spec("fairseq")
    if spec is None or not spec.submodule_search_locations:
        return "not installed: exported models can be translated and served, but not trained"
    package = spec.submodule_search_locations[0]
    compiled = [name for name in ("data/data_utils_fast", "libbleu") if glob.glob(f"{glob.escape(package)}/{name}*.so")]
    return f"{version}, {'with compiled extensions' if len(compiled) == 2 else 'extensions replaced by Python'}"
