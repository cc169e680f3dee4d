"""Start the processes of train.sh on this machine with torchrun.

    python scripts/launch.py PROCESSES COMMAND...

The first process prints as usual. If another one fails, its last lines are printed. torchrun's own report, a traceback
of torchrun, is not.
"""

import logging
import sys
from collections import deque
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

LAST_LINES = 20


def launch(processes: int, command: list[str]) -> int:
    """Run `command` in several processes, with torchrun's environment variables. Returns its exit status."""
    logging.disable(logging.ERROR)  # messages of torchrun; the command runs in other processes
    with TemporaryDirectory() as logs:
        quiet = ",".join(f"{rank}:3" for rank in range(1, processes))  # 3: standard output and standard error
        options = ["--standalone", "--nproc-per-node", str(processes), "--no-python", "--log-dir", logs]
        try:
            main([*options, "--redirects", quiet, *command])
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if rank != 0:
                print(f"process {rank} failed:", file=sys.stderr)
                for name in (failure.error_file, *Path(logs).glob(f"*/attempt_0/{rank}/std*.log")):
                    if Path(name).is_file():
                        with open(name, encoding="utf-8", errors="replace") as file:
                            sys.stderr.writelines(deque(file, LAST_LINES))
            return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        except SignalException as error:
            return 128 + error.sigval
    return 0


if __name__ == "__main__":
    sys.exit(launch(int(sys.argv[1]), sys.argv[2:]))
