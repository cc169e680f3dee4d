"""Running fairseq's commands, the plugin's and the shell scripts as a user would."""

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from support.models import TINY
from support.paths import PLUGIN

# Stands in for a command: has fork_server.py run it, and exits with its status.
FORKED_COMMAND = """#!{python} -ES
import array, json, os, signal, socket, sys
command = [os.path.join({bin!r}, os.path.basename(sys.argv[0])), *sys.argv[1:]]
if os.path.basename(command[0]) == "python":
    if not (len(command) > 1 and os.path.isfile(command[1])):
        os.execv({python!r}, command)
    del command[0]
connection = socket.socket(socket.AF_UNIX)
connection.connect({path!r})
request = json.dumps([command, os.getcwd(), dict(os.environ)]).encode() + b"\\n"
sent = connection.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
connection.sendall(request[sent:])
status = int(connection.makefile().readline())
if status < 0:
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


@functools.cache
def forked_commands():
    """Start fork_server.py. Returns a directory with `python` and the fairseq commands, each run in a fork of it."""
    directory = Path(tempfile.mkdtemp())
    bin, path = Path(sys.executable).parent, str(directory / "socket")
    command = [sys.executable, Path(__file__).with_name("fork_server.py"), path]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(shutil.rmtree, directory)
    atexit.register(server.stdin.close)
    text = FORKED_COMMAND.format(python=sys.executable, bin=str(bin), path=path)
    for name in ("python", *(command.name for command in bin.glob("fairseq-*"))):
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    assert server.stdout.readline() == b"listening\n"
    return directory


def run(*command, check=True, stdin="", cwd=None, env=None):
    """Run a command as a user would and return its result, with .stdout and .stderr as text.

    Python scripts and the commands of fairseq and of the plugin, also those started by a shell script, run in forks of
    one process that has imported fairseq.

    Args:
        check: fail the test if the command fails
        stdin: text or bytes
        env: additional environment variables. If not None, even if empty, the command runs in a new process instead of
            a fork. Commands with their own resource limits or privileges need this, and tests of imports.
    """
    words = [str(part) for part in command]
    stdin = stdin if isinstance(stdin, bytes) else stdin.encode("utf-8")
    search_path = [*([forked_commands()] if env is None else []), Path(sys.executable).parent, os.environ["PATH"]]
    environment = {**os.environ, "PATH": os.pathsep.join(map(str, search_path)), **(env or {})}
    done = subprocess.run(words, input=stdin, capture_output=True, cwd=cwd, env=environment)
    done.stdout, done.stderr = done.stdout.decode("utf-8"), done.stderr.decode("utf-8")
    if check and done.returncode != 0:
        output = f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        pytest.fail(f"{' '.join(words)}\nexit {done.returncode}\n{output}")
    return done


def train_options(data_bin, save_dir):
    """Return the options of a short training run of a tiny model on the CPU."""
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    return [
        data_bin,
        *("--user-dir", PLUGIN, "--arch", "resmlp_tiny", *sizes, "--share-all-embeddings"),
        *("--optimizer", "adagrad", "--lr", "0.05", "--lr-scheduler", "fixed", "--warmup-updates", "20"),
        *("--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1", "--max-tokens", "400"),
        *("--cpu", "--seed", "1", "--num-workers", "0", "--save-dir", save_dir, "--log-format", "simple"),
    ]
