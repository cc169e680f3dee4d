"""Run Python scripts in forks of one process that has imported fairseq.

Importing torch and fairseq is most of the time of a short command, and the tests run some two hundred. Each line of the
standard input is JSON: [command, folder, environment, [files for stdin, stdout and stderr]], and is answered by the
exit status on the standard output. The plugin is not imported here: a command finds it as it would in a process of its
own.
"""

import json
import logging
import os
import runpy
import sys

import fairseq  # noqa: F401


def fork_for_each(requests, answers):
    """Answer requests up to the last; return only in a fork, with the request that is its own, set up for it."""
    for line in requests:
        command, folder, environment, files = json.loads(line)
        process = os.fork()
        if process == 0:
            os.close(requests.fileno())
            os.close(answers.fileno())
            for descriptor, file in enumerate(files):
                os.dup2(os.open(file, os.O_RDWR), descriptor)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            return command
        status = os.waitpid(process, 0)[1]
        exit_status = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        print(exit_status, file=answers, flush=True)
    return None


# Copies, as sys.stdin and sys.stdout, still unused, are to be those of the forks.
own = fork_for_each(os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w"))
if own:
    # The fork goes on as the interpreter of the script, and ends as one: what is to be done at its exit is done.
    if os.path.basename(own[0]) == "fairseq-train":  # alone sets up its logging before it imports fairseq, which does
        logging.root.handlers.clear()
    sys.argv = own
    sys.path[0] = os.path.dirname(own[0])
    runpy.run_path(own[0], run_name="__main__")
