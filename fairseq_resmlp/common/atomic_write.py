"""Atomic file writing: a file is either written completely or left as it was.

A file is written to a temporary without a name (O_TMPFILE) in the same directory. It gets a name when it is complete,
so that nothing remains of a process that is killed. On file systems without O_TMPFILE, such as NFS, the temporary is
named FILE.HEX.part, and remains if the process is killed.
"""

import errno
import fcntl
import os
import secrets
import shutil
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TextIO

from fairseq_resmlp.common.errors import InputError

# Errors of writing to an open file, which do not contain its name
_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_write(path: str) -> Iterator[str]:
    """Yield a temporary path. On success, its content replaces that of `path`; on failure, `path` is unchanged.

    A new file has the permissions of any new file, an existing one keeps its own. If `path` is a symbolic link, the
    file that it refers to is replaced. A FIFO, a character device such as /dev/null, and an open descriptor such as
    /dev/stdout receive the content on success. The temporary path must be written to, not renamed or replaced.

    Raises:
        InputError: the file cannot be written, for example because of a full disk; or `path` is a directory
    """
    with atomic_write_all([path]) as (temporary,):
        yield temporary


@contextmanager
def atomic_write_all(paths: Sequence[str]) -> Iterator[list[str]]:
    """`atomic_write` for several files: all of them are replaced, after all have been written, or none."""
    with ExitStack() as stack:
        outputs = []
        for path in paths:
            with _errors_name(path):
                special = _open_special(path)
                output = _Replacement(path) if special is None else _Copy(path, special)
            outputs.append(stack.enter_context(closing(output)))
        with ExitStack() as errors:
            for path in paths:
                errors.enter_context(_write_errors_name(path))
            yield [output.temporary for output in outputs]
        for output in outputs:
            with _errors_name(output.path):
                output.complete()
        replacements = [output for output in outputs if isinstance(output, _Replacement)]
        with _signals_delayed():
            for replacement in replacements:
                with _errors_name(replacement.path):
                    replacement.link()
            for replacement in replacements:
                with _errors_name(replacement.path):
                    replacement.replace()


@contextmanager
def atomic_directory(path: str, names: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield a temporary path for each name. On success, `path` becomes a directory with files of these names.

    Raises:
        InputError: a file cannot be written
    """
    path = os.path.normpath(path)
    with ExitStack() as stack:
        with _errors_name(path):
            files = {name: stack.enter_context(closing(_Temporary(path))) for name in names}
        with _write_errors_name(path):
            yield {name: file.path for name, file in files.items()}
        with _errors_name(path):
            for file in files.values():
                os.fsync(file.descriptor)
            partial = _unique_name(path)
            with _signals_delayed():
                os.mkdir(partial)
                try:
                    for name, file in files.items():
                        file.link(os.path.join(partial, name))
                    os.rename(partial, path)
                except BaseException:
                    shutil.rmtree(partial)
                    raise


@contextmanager
def open_output(path: str) -> Iterator[TextIO]:
    """Open a UTF-8 text file with LF line endings for writing: atomically, see `atomic_write`.

    "-" is standard output. It and other open descriptors, FIFOs and devices receive the text as it is written.

    Raises:
        InputError: see `atomic_write`
    """
    name = "standard output" if path == "-" else path
    with _errors_name(name):
        special = _duplicate(1) if path == "-" else _open_special(path)
    if special is None:
        with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as out:
            yield out
    else:
        with _write_errors_name(name), open(special, "w", encoding="utf-8", newline="\n") as out:
            yield out


def refuse_overwriting(outputs: Iterable[str], inputs: Iterable[str]) -> None:
    """Raise InputError if an output is one of the inputs, also under another name, or if two outputs are one file.

    Args:
        outputs, inputs: paths; "-" is standard output or standard input. Missing files and devices are ignored.
    """
    read = {identity: path for path in inputs if (identity := _identity(0 if path == "-" else path))}
    written: dict[str, str] = {}
    for path in outputs:
        identity = _identity(1 if path == "-" else path)
        if identity in read:
            name, source = ("standard output" if path == "-" else path), read[identity]
            source = "its own input" if source in (path, "-") else f"the input {source}"
            raise InputError(f"{name} would overwrite {source}: choose another output")
        real = os.path.realpath(path)
        if real in written and (identity or not os.path.exists(path)):
            also = "" if written[real] == path else f", also as {written[real]}"
            raise InputError(f"{path} would be written twice{also}: choose different outputs")
        written[real] = path


def _identity(file: str | int) -> tuple[int, int] | None:
    """Return device and inode of a regular file or FIFO."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode) else None


@contextmanager
def _errors_name(path: str) -> Iterator[None]:
    """Report errors of operations on `path` itself or on its temporary, which has another name."""
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of a pipe has seen enough
    except OSError as error:
        unchanged = ", which is unchanged" if os.path.isfile(path) and _descriptor(path) is None else ""
        raise InputError(f"cannot write {path}{unchanged}: {error.strerror or error}") from error


@contextmanager
def _write_errors_name(path: str) -> Iterator[None]:
    """Report a full disk with the name of the file. Other errors may be those of reading another file."""
    try:
        yield
    except OSError as error:
        if error.errno not in _WRITE_ERRORS:
            raise
        with _errors_name(path):
            raise


@contextmanager
def _signals_delayed() -> Iterator[None]:
    """Delay signals that would end the process, for the few system calls while temporaries have names.

    Handlers of the program itself stay in place. Blocking the signals would not suffice, because another thread, for
    example of OpenMP, would receive them.
    """
    caught: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():  # handlers can be set nowhere else
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for delayed in caught:
            signal.raise_signal(delayed)


def _open_special(path: str) -> int | None:
    """Open an output that cannot be replaced. Returns a descriptor, or None for a regular file or a new one."""
    if not os.path.basename(path):
        raise InputError(f"{path!r} is not the name of a file: specify one")
    descriptor = _descriptor(path)
    if descriptor is not None:
        return _duplicate(descriptor)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a directory: specify a file")
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        raise InputError(f"{path} is a block device or a socket: specify a file")
    return os.open(path, os.O_WRONLY | os.O_NOCTTY)


def _descriptor(path: str) -> int | None:
    """Return the descriptor that a path such as /dev/stdout or /proc/self/fd/3, or a link to it, refers to."""
    own = {os.path.realpath(f"/proc/{process}/fd") for process in ("self", "thread-self")}
    for _ in range(40):  # Linux follows as many links
        directory, name = os.path.split(path)
        if name.isdecimal() and os.path.realpath(directory) in own:
            return int(name)
        if not os.path.islink(path):
            break
        path = os.path.join(directory, os.readlink(path))
    return None


def _duplicate(descriptor: int) -> int:
    """Return a new descriptor of the same open file. Opening its path again would truncate it."""
    standard = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
    if descriptor < len(standard) and standard[descriptor] is None:  # another file may use its number now
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "it is open only for reading")
    return os.dup(descriptor)


def _unique_name(path: str) -> str:
    directory, name = os.path.split(path)
    return os.path.join(directory, f"{name[:50]}.{secrets.token_hex(8)}.part")  # at most 255 bytes


class _Temporary:
    """A new file in the directory of `path`, without a name if possible.

    Attributes:
        path: where it can be opened
        name: its path in the directory, or None; the file is removed if it still has this name in the end
    """

    def __init__(self, path: str, mode: int = 0o666):
        directory = os.path.dirname(path) or "."
        os.makedirs(directory, exist_ok=True)
        self.name: str | None = None
        try:
            self.descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR, mode)
            self.path = f"/proc/{os.getpid()}/fd/{self.descriptor}"
            os.stat(self.path)
        except OSError:  # the file system does not support O_TMPFILE, or /proc is not mounted
            self.path = self.name = _unique_name(path)
            self.descriptor = os.open(self.name, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)

    def link(self, name: str) -> None:
        """Give the file this new name."""
        if self.name is None:
            # With src_dir_fd, Python follows the link in /proc.
            os.link(self.path, name, src_dir_fd=self.descriptor, follow_symlinks=True)
        else:
            os.rename(self.name, name)
        self.name = name

    def close(self) -> None:
        os.close(self.descriptor)
        if self.name is not None:
            with suppress(FileNotFoundError):
                os.remove(self.name)


class _Replacement:
    """A file that replaces the regular file `path`, or the one that a symbolic link `path` refers to."""

    def __init__(self, path: str):
        self.path = path
        self.target = os.path.realpath(path) if os.path.islink(path) else path
        existing = self._existing()
        self.file = _Temporary(self.target, existing.st_mode & 0o777 | 0o600 if existing else 0o666)
        self.temporary = self.file.path

    def complete(self) -> None:
        """Set the permissions and flush to disk."""
        existing = self._existing()
        if existing:
            with suppress(OSError):  # only root may give files away
                os.fchown(self.file.descriptor, existing.st_uid, existing.st_gid)
            os.fchmod(self.file.descriptor, stat.S_IMODE(existing.st_mode))
        os.fsync(self.file.descriptor)  # after a power failure, the new name must not refer to missing content

    def link(self) -> None:
        """Give the temporary a name, which may fail."""
        if self.file.name is None:
            self.file.link(_unique_name(self.target))

    def replace(self) -> None:
        """Replace the target."""
        assert self.file.name is not None
        os.replace(self.file.name, self.target)
        self.file.name = None

    def close(self) -> None:
        self.file.close()

    def _existing(self) -> os.stat_result | None:
        try:
            return os.stat(self.target)
        except FileNotFoundError:
            return None


class _Copy:
    """A temporary file whose content is copied to an open descriptor."""

    def __init__(self, path: str, descriptor: int):
        self.path, self.descriptor = path, descriptor
        self.resources = ExitStack()
        self.resources.callback(os.close, descriptor)
        self.file = self.resources.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  entered
        self.temporary = f"/proc/{os.getpid()}/fd/{self.file.fileno()}"

    def complete(self) -> None:
        """Copy the content."""
        with open(self.descriptor, "wb", closefd=False) as out:
            shutil.copyfileobj(self.file, out)

    def close(self) -> None:
        self.resources.close()
