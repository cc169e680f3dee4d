"""Memory use of a process."""

import re
from pathlib import Path


def resident_memory(pid="self"):
    """Return the peak and the current resident memory of a process in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return tuple(int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024 for name in ("VmHWM", "VmRSS"))
