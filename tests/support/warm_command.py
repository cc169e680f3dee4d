"""Run fairseq-resmlp in forks of a process that has imported what the command needs.

`python warm_command.py MODULE...` imports the modules and reads requests from standard input, one line of JSON each:
[words, working directory, files for standard input, output and error]. It answers each with the exit status. Unlike
fork_server.py, it can run commands with closed streams, and starts no interpreter per command.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from typing import NamedTuple

SECONDS = 30  # after which a command counts as hanging
CLOSED = "closed"


class Finished(NamedTuple):
    """Exit status (negative: a signal), and what the command wrote to standard output and error, if to files."""

    status: int
    stdout: str
    stderr: str


class WarmCommand:
    """Runs `fairseq-resmlp`.

    Args:
        directory: for the files that receive standard output and error
        modules: to import once
    """

    def __init__(self, directory, modules):
        self.files = ["/dev/null", str(directory / "stdout"), str(directory / "stderr")]
        self.server = subprocess.Popen(
            [sys.executable, __file__, "fairseq_resmlp.cli.main", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def __call__(self, words, cwd, stdin=None, stdout=None, stderr=None):
        """Run `fairseq-resmlp WORDS` in the directory `cwd` for at most `SECONDS`.

        Args:
            stdin, stdout, stderr: a path, or CLOSED; None: nothing to read, and files for what is written
        """
        for file in self.files[1:]:
            open(file, "wb").close()
        streams = [given or file for given, file in zip((stdin, stdout, stderr), self.files)]
        self.server.stdin.write(json.dumps([words, str(cwd), streams]).encode() + b"\n")
        self.server.stdin.flush()
        status = int(self.server.stdout.readline())
        texts = []
        for file in self.files[1:]:
            with open(file, encoding="utf-8", errors="surrogateescape") as text:
                texts.append(text.read())
        return Finished(status, *texts)

    def close(self):
        """End the server."""
        self.server.stdin.close()
        self.server.stdout.close()
        self.server.wait()


def serve(modules):
    """Answer requests until standard input is closed."""
    requests, answers = (os.fdopen(os.dup(descriptor), mode) for descriptor, mode in ((0, "r"), (1, "w")))
    for module in modules:
        importlib.import_module(module)
    for request in requests:
        child = os.fork()
        if child == 0:
            run(*json.loads(request))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


def run(words, cwd, streams):
    """Run the command in this process, with the streams that Python would create when it starts, and exit."""
    signal.alarm(SECONDS)
    os.chdir(cwd)
    for descriptor, path in enumerate(streams):
        os.close(descriptor)
        if path != CLOSED:  # gets the lowest free descriptor, which is that of the stream unless one below is closed
            opened = os.open(path, os.O_WRONLY | os.O_APPEND if descriptor else os.O_RDONLY)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
    for descriptor, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        errors = "backslashreplace" if name == "stderr" else "strict"
        closed = streams[descriptor] == CLOSED
        stream = None if closed else os.fdopen(descriptor, mode, encoding="utf-8", errors=errors, closefd=False)
        setattr(sys, name, stream)
    sys.argv = ["fairseq-resmlp", *words]
    status = 1
    try:
        sys.modules["fairseq_resmlp.cli.main"].main()
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        status = 120  # as Python does
    os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1:])
