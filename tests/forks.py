"""Run Python scripts in forks of one process that has imported fairseq.

Importing torch and fairseq is most of the time of a short command, and the tests and the scripts that they test run
some hundreds. `python forks.py SOCKET` answers each connection to SOCKET, up to the end of its own standard input:
it takes [command, folder, environment] as a line of JSON, with the standard input, output and error that the command
is to have, and gives the exit status. The plugin is not imported here: a command finds it as it would in a process of
its own.
"""

import array
import json
import logging
import os
import runpy
import select
import signal
import socket
import sys

import fairseq  # noqa: F401
import torch._dynamo  # noqa: F401  by every optimizer, in seconds


def answer(connection):
    """Return only in a fork, set up for the command that is asked for: its words."""
    request, [(_, _, files)], _, _ = connection.recvmsg(1 << 16, socket.CMSG_LEN(3 * array.array("i").itemsize))
    files = array.array("i", files)
    while not request.endswith(b"\n"):
        request += connection.recv(1 << 16)
    command, folder, environment = json.loads(request)
    process = os.fork()
    if process == 0:
        connection.close()
        for descriptor, file in enumerate(files):
            os.dup2(file, descriptor)
            os.close(file)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        return command
    for file in files:
        os.close(file)
    status = os.waitpid(process, 0)[1]
    exit_status = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    connection.sendall(b"%d\n" % exit_status)
    os._exit(0)


def fork_for_each(path):
    """Answer every connection to the socket `path` at once, until the standard input ends; return only in forks."""
    own = os.dup(0)  # sys.stdin and sys.stdout, still unused, are to be those of the forks
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
                return answer(connection)
            connection.close()


sys.argv = fork_for_each(sys.argv[1])
# The fork goes on as the interpreter of the script, and ends as one: what is to be done at its exit is done.
if os.path.basename(sys.argv[0]) == "fairseq-train":  # alone sets up its logging before it imports fairseq, which does
    logging.root.handlers.clear()
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
