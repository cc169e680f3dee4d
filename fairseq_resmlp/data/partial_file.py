"""An incomplete download: the bytes so far, and the version of the file on the server that they belong to."""

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

from fairseq_resmlp.common.errors import InputError

# What flock raises on file systems without locks
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class Version(NamedTuple):
    """What identifies a version of a file on a server: address, headers ETag and Last-Modified (or ""), and bytes."""

    url: str
    etag: str
    last_modified: str
    size: int | None

    @classmethod
    def from_headers(cls, url: str, headers: Mapping[str, str], size: int | None) -> "Version":
        """Return the version that a response describes. `size` is that of the whole file, or None if it is unknown."""
        return cls(url, _header(headers.get("ETag")), _header(headers.get("Last-Modified")), size)

    @property
    def validator(self) -> str:
        """Value of If-Range, or "". Weak entity tags are not allowed there (RFC 9110, section 13.1.5)."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified

    def differs_from(self, other: "Version") -> bool:
        """Return whether a property that both versions have differs."""
        pairs = (self.etag, other.etag), (self.last_modified, other.last_modified), (self.size, other.size)
        return any(a != b for a, b in pairs if a not in ("", None) and b not in ("", None))

    def is_confirmed_by(self, other: "Version") -> bool:
        """Return whether a header that both versions have is the same."""
        return "" != self.etag == other.etag or "" != self.last_modified == other.last_modified


def _header(value: object) -> str:
    """Return a header that can be sent back as it is, or ""."""
    return value if isinstance(value, str) and value.isascii() and value.isprintable() else ""


class PartialFile:
    """The first bytes of a file. Use `open_partial_file`.

    Attributes:
        path: where they are stored
        version: the version that they belong to, or None if it is unknown
        joined: whether they come from several responses
    """

    def __init__(self, path: str, file: BinaryIO):
        self.path, self._file, self._record = path, file, f"{path}.json"
        self.version = self._read_version()
        self.joined = self.size > 0

    @property
    def size(self) -> int:
        return self._file.seek(0, os.SEEK_END)

    def restart(self, version: Version | None = None) -> None:
        """Discard the bytes. Those that are appended from now on belong to `version`."""
        self._file.truncate(0)
        self.joined = False
        with contextlib.suppress(FileNotFoundError):
            os.remove(self._record)
        self.version = version
        if version is not None:
            with open(self._record, "x", encoding="utf-8") as record:  # "x" does not follow links
                json.dump(version._asdict(), record)

    def append(self, data: bytes) -> None:
        self._file.seek(0, os.SEEK_END)
        self._file.write(data)
        self._file.flush()

    def complete(self, path: str) -> None:
        """Move the file to `path`."""
        os.fsync(self._file.fileno())  # after a power failure, the name must not refer to missing content
        os.replace(self.path, path)
        with contextlib.suppress(FileNotFoundError):
            os.remove(self._record)

    def _read_version(self) -> Version | None:
        try:
            if not stat.S_ISREG(os.lstat(self._record).st_mode):
                return None
            with open(self._record, encoding="utf-8") as file:
                record = json.loads(file.read(1 << 16))
            size = record["size"]
            url, etag, last_modified = (_header(record[name]) for name in ("url", "etag", "last_modified"))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None  # none, or not ours
        return Version(url, etag, last_modified, size if type(size) is int else None)


@contextlib.contextmanager
def open_partial_file(path: str) -> Iterator[PartialFile]:
    """Open `path` for this process alone. It is created if it does not exist, and removed if it remains empty.

    Raises:
        InputError: it is a link, a device or a directory, or another process is using it
        OSError: it cannot be written
    """
    if os.path.lexists(path):
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise InputError(
                f"{path} is not a file that an interrupted download has left: remove it, or use another directory"
            )
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    with open(descriptor, "r+b") as file:
        _lock(descriptor, path)
        partial = PartialFile(path, file)
        try:
            yield partial
        finally:
            with contextlib.suppress(FileNotFoundError):
                if partial.size == 0 and os.path.samestat(os.lstat(path), os.fstat(descriptor)):
                    os.remove(path)


def _lock(descriptor: int, path: str) -> None:
    """Lock an open file until it is closed. Without an effect where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise InputError(f"another process is writing {path}: wait until it has ended") from error
    if not os.path.exists(path) or not os.path.samestat(os.fstat(descriptor), os.lstat(path)):
        raise InputError(f"another process has just completed {path}: run again")
