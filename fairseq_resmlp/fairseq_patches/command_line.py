"""Patches of fairseq's command line: options, errors and warnings."""

import atexit
import errno
import functools
import logging
import os
import re
import sys
import warnings
from types import TracebackType
from typing import Any

import torch
from fairseq import options, utils
from fairseq.distributed import utils as distributed_utils
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException, HydraException
from omegaconf.errors import OmegaConfBaseException
from torch import distributed

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.streams import open_closed_streams

logger = logging.getLogger(__name__)

_OF_OUTPUT = (errno.EBADF, errno.ENOSPC)  # errors of other files contain their names

PACKAGE = __name__.partition(".")[0]


def show_model_options_in_help() -> None:
    """Make `fairseq-train --arch ARCH --help` list the architecture's options (fairseq issue 701).

    fairseq parses once to find --arch and adds that model's options afterwards, but the first parse already answers
    --help and exits.
    """
    original = options.parse_args_and_arch

    @functools.wraps(original)
    def parse_args_and_arch(parser, input_args=None, parse_known=False, suppress_defaults=False, modify_parser=None):
        parse_known_args = parser.parse_known_args

        def first_parse(args=None, namespace=None):
            del parser.parse_known_args
            args = sys.argv[1:] if args is None else args
            return parse_known_args([a for a in args if a not in ("-h", "--help")], namespace)

        # With suppress_defaults, fairseq calls this function again before it parses anything.
        if not suppress_defaults:
            parser.parse_known_args = first_parse
        return original(parser, input_args, parse_known, suppress_defaults, modify_parser)

    options.parse_args_and_arch = parse_args_and_arch


def allow_bf16_without_tpu() -> None:
    """Make --bf16 and --memory-efficient-bf16 work on CPUs and GPUs (fairseq issue 4696).

    On the command line, but not in fairseq-hydra-train, they imply --tpu, and training fails without torch_xla. With
    this patch, only --tpu selects a TPU.
    """
    original = options.parse_args_and_arch

    @functools.wraps(original)
    def parse_args_and_arch(parser, input_args=None, parse_known=False, suppress_defaults=False, modify_parser=None):
        parsed = original(parser, input_args, parse_known, suppress_defaults, modify_parser)
        args = parsed[0] if parse_known and not suppress_defaults else parsed
        if getattr(args, "tpu", False):
            args.tpu = "--tpu" in (sys.argv[1:] if input_args is None else input_args)
        return parsed

    options.parse_args_and_arch = parse_args_and_arch


def accept_second_copy() -> None:
    """Continue with the imported plugin if --user-dir names another copy of it, with a warning.

    fairseq rejects a second directory of the same name, so an installed plugin that a script has imported would
    conflict with --user-dir in a checkout.
    """
    original = utils.import_user_module
    package = sys.modules[PACKAGE]

    @functools.wraps(original)
    def import_user_module(args):
        directory = os.path.abspath(getattr(args, "user_dir", None) or "")
        is_copy = os.path.basename(directory) == PACKAGE and os.path.isfile(os.path.join(directory, "resmlp.py"))
        if is_copy and directory not in map(os.path.abspath, package.__path__):
            logger.warning(f"{PACKAGE} is already imported from {package.__path__[0]}: ignoring {directory}")
        else:
            original(args)

    utils.import_user_module = import_user_module


def report_unusable_output() -> None:
    """Report in one line that standard output is closed or full, and exit with status 1.

    Otherwise, fairseq-generate would lose its translations silently if standard output is closed. If it is full, every
    message of the log would cause a traceback.
    """
    if not _is_fairseq_command():
        return
    open_closed_streams()
    logging.raiseExceptions = False

    @atexit.register
    def flush():
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # the reader has seen enough
            os._exit(1)
        except OSError as error:
            print(f"error: {_name_output(error)}", file=sys.stderr, flush=True)
            os._exit(1)


def _name_output(error: OSError) -> str:
    """Return the message of an error of writing to standard output."""
    return f"cannot write standard output: {error.strerror or error}"


def _is_fairseq_command() -> bool:
    program = os.path.realpath((sys.argv or [""])[0])
    return os.path.basename(program).startswith("fairseq-") or f"{os.sep}fairseq_cli{os.sep}" in program


def print_input_errors_in_one_line() -> None:
    """Print only the message of errors that users can fix, including full disks and missing files."""
    excepthook = sys.excepthook

    @functools.wraps(excepthook)
    def print_error(kind, error, traceback):
        message = _one_line_message(error, traceback)
        if message:
            print(f"error: {message}", file=sys.stderr)
        else:
            excepthook(kind, error, traceback)

    sys.excepthook = print_error
    _print_input_errors_of_hydra_in_one_line()


def _print_input_errors_of_hydra_in_one_line() -> None:
    """Have Hydra, which prints the errors of fairseq-hydra-train itself, print only the message of these errors."""
    original: Any = vars(JobReturn)["return_value"]

    def return_value(self):
        error = self._return_value
        message = _one_line_message(error, error.__traceback__) if self.status == JobStatus.FAILED else None
        if message:
            raise _HydraInputError(f"error: {message}") from error
        return original.fget(self)

    type.__setattr__(JobReturn, "return_value", original.getter(return_value))


class _HydraInputError(InputError, CompactHydraException):
    """An error of which Hydra prints only the message."""


def _one_line_message(error: BaseException, traceback: TracebackType | None) -> str | None:
    """Return the message of an error that users can fix, or None for any other error."""
    is_fairseq = _is_fairseq_command()
    text = " ".join(str(error).split())
    # In a program that merely imports the plugin, a missing file may be its own.
    if is_fairseq and isinstance(error, OSError) and error.filename is None and error.errno in _OF_OUTPUT:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python writes what is left again when it exits
        return _name_output(error)
    if isinstance(error, InputError) or (is_fairseq and isinstance(error, OSError)):
        return text or type(error).__name__
    if distributed.is_available() and distributed.is_initialized() and "by peer" in text:  # gloo's wording
        return (
            "another process of this training has exited; see its output for the cause. Start all processes again to "
            "resume from the last checkpoint"
        )
    if is_fairseq and isinstance(error, (OmegaConfBaseException, HydraException)):  # an option has a wrong type
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    # fairseq's own checks of options raise AssertionError, ValueError and others, but name the option. A bare Exception
    # is raised only for users, and so are errors that name a package to install.
    is_for_users = type(error) is Exception or re.search(r"(^|[ (`'])--[a-z][a-z-]+|[Pp](lease|ip) install", text)
    return text if is_fairseq and is_for_users and _is_raised_by_fairseq(traceback) else None


def _is_raised_by_fairseq(traceback: TracebackType | None) -> bool:
    while traceback and traceback.tb_next:
        traceback = traceback.tb_next
    module = traceback.tb_frame.f_globals.get("__name__", "") if traceback else ""
    return module.split(".")[0] in ("fairseq", "fairseq_cli", "__main__")  # __main__: python fairseq_cli/train.py


def explain_missing_devices() -> None:
    """Report in one line that fairseq cannot start the processes of --distributed-world-size without GPUs."""
    original = distributed_utils.infer_init_method

    @functools.wraps(original)
    def infer_init_method(cfg, force_distributed=False):
        try:
            original(cfg, force_distributed)
        except (AssertionError, ZeroDivisionError) as error:  # the number of GPUs is asserted, or a divisor
            if torch.cuda.device_count() >= cfg.distributed_world_size:
                raise
            raise InputError(
                f"--distributed-world-size {cfg.distributed_world_size} with {torch.cuda.device_count()} GPUs: fairseq "
                "starts one process per GPU; on CPUs, start each process yourself, with --distributed-rank, "
                "--distributed-init-method tcp://localhost:PORT, --distributed-no-spawn, --distributed-backend gloo "
                "and --ddp-backend legacy_ddp"
            ) from error

    distributed_utils.infer_init_method = infer_init_method


def silence_warnings() -> None:
    """Hide warnings about fairseq's use of its dependencies, which users cannot act on."""
    logging.getLogger("hydra").setLevel(logging.WARNING)  # one of fairseq's models sets every logger to DEBUG
    for message in (
        r"hydra\.experimental\.\w+\(\) is no longer experimental",
        r"\nThe strict flag in the compose API is deprecated",
        r"\nThe version_base parameter is not specified",
        r"In '.*': Usage of deprecated keyword in package header",
        r"\n'config' is validated against ConfigStore schema",
        r"'pin_memory' argument is set as true but no accelerator is found",
        r"`torch\.cuda\.amp\.\w+\(args\.\.\.\)` is deprecated",
        r"`torch\.jit\.script` is deprecated",
    ):
        warnings.filterwarnings("ignore", message=message)
