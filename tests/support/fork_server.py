"""Run Python scripts in forks of one process that has imported fairseq.

The tests run hundreds of short commands, and most of the time of each would be spent importing torch and fairseq.
`python fork_server.py SOCKET` accepts connections to SOCKET until its standard input is closed. A request is a line of
JSON, [command, working directory, environment], with the file descriptors of the command's standard input, output and
error. The response is the exit status. The plugin is not imported here: the command finds it as in a new process.
"""

import array
import atexit
import json
import logging
import os
import runpy
import select
import signal
import socket
import sys

status = 1  # of a fork: that of an exception, unless run_script changes it


@atexit.register  # before any other handler, so it is called last
def exit_at_once():
    """Skip the destruction of all objects. It would copy the memory of the server, which takes a second."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):  # Python reports it, with its own exit status
        return
    if status is not None:
        os._exit(status)


import fairseq  # noqa: E402, F401
import torch._dynamo  # noqa: E402, F401  imported by every optimizer, which takes seconds


def handle(connection):
    """Serve one request. Returns only in the fork that runs the command, with the words of the command."""
    request, [(_, _, files)], _, _ = connection.recvmsg(1 << 16, socket.CMSG_LEN(3 * array.array("i").itemsize))
    files = array.array("i", files)
    while not request.endswith(b"\n"):
        request += connection.recv(1 << 16)
    command, directory, environment = json.loads(request)
    process = os.fork()
    if process == 0:
        connection.close()
        for descriptor, file in enumerate(files):
            os.dup2(file, descriptor)
            os.close(file)
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(environment)
        return command
    for file in files:
        os.close(file)
    status = os.waitpid(process, 0)[1]
    exit_status = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    connection.sendall(b"%d\n" % exit_status)
    os._exit(0)


def serve(path):
    """Serve connections to the socket `path` in parallel until standard input is closed. Returns only in forks."""
    own = os.dup(0)  # sys.stdin and sys.stdout, not used so far, will be those of the forks
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        os.write(1, b"listening\n")
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            if own in select.select([server, own], [], [])[0]:
                os._exit(0)
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                os.close(own)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return handle(connection)
            connection.close()


def run_script():
    """Run the script of `sys.argv` as the interpreter does, and keep its exit status."""
    global status
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as error:
        status = 0 if error.code is None else error.code & 0xFF if isinstance(error.code, int) else 1
        raise
    except KeyboardInterrupt:  # Python ends itself with a signal
        status = None
        raise


sys.argv = serve(sys.argv[1])
if os.path.basename(sys.argv[0]) == "fairseq-train":  # the only command that configures logging before fairseq does
    logging.root.handlers.clear()
sys.path[0] = os.path.dirname(sys.argv[0])
# The fork continues as the interpreter of the script. It prints exceptions and calls the exit handlers.
run_script()
