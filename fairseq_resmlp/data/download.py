"""Downloading files of public corpora, with resume, retries and checksums."""

import hashlib
import os
import re
import shutil
import time
import urllib.error
from collections.abc import Callable, Sequence
from typing import Any

import tqdm

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.unique_names import check_distinct_targets
from fairseq_resmlp.data import http_source
from fairseq_resmlp.data.http_source import TransferError, check_url, masked, open_url, read_chunk
from fairseq_resmlp.data.partial_file import PartialFile, Version, open_partial_file

CHUNK = 1 << 20
CHECKSUM = re.compile("-|sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}")
LONGEST_UNANNOUNCED = 8 << 30  # bytes that are accepted from a server that does not state the size of a file


def download_all(
    files: Sequence[tuple[str, str]], directory: str, mirror: str | None, report: Callable[[str], object]
) -> None:
    """Download files into a directory, each unless it exists.

    Args:
        files: URL and checksum of each, as for `download`
        directory: is created if it does not exist
        mirror: address to download every file from instead, by its name
        report: called with a line about each step

    Raises:
        InputError: two files have the same name; see also `download`
    """
    urls = [url for url, _ in files]
    names = [_file_name(url) for url in urls]
    paths = [os.path.join(directory, name) for name in names]
    remedy = "download one of them yourself, and specify it as file:///PATH/ANOTHER-NAME"
    check_distinct_targets([masked(url) for url in urls], paths, remedy)
    addresses = [f"{mirror.rstrip('/')}/{name}" if mirror else url for url, name in zip(urls, names)]
    for address, (_, checksum) in zip(addresses, files):
        check_url(address)
        _normalized(checksum)
    for name, address, path, (_, checksum) in zip(names, addresses, paths, files):
        report(f"{name} from {masked(address)}")
        sha256 = download(address, path, checksum)
        report(f"{name}: sha256 {sha256}, {'no checksum to verify' if checksum == '-' else 'verified'}")


def _file_name(url: str) -> str:
    return os.path.basename(url if url.startswith("file:") else re.split("[?#]", url)[0])


def download(url: str, path: str, checksum: str, attempts: int = 5, wait: float = 2.0) -> str:
    """Download `url` to `path` unless it exists, continuing an interrupted download.

    Until it is complete and verified, the file is named `path`.part. `path`.part.json stores which version of the file
    it is, as far as the server tells. A download is continued only if the server still has that version, or if a
    checksum can be verified at the end.

    Args:
        url: may contain a user name and password, which are never printed
        checksum: "sha256:..." or "md5:...", or "-" if none is known
        attempts: number of consecutive attempts with little progress
        wait: seconds before the second attempt, doubled for each further one

    Returns:
        str: the SHA-256 of the file

    Raises:
        InputError: the server does not have the file, the connection fails, the checksum differs, the file is too
            large for the disk, or it cannot be written
    """
    check_url(url)
    checksum = _normalized(checksum)
    if os.path.lexists(path):
        if not os.path.isfile(path):
            raise InputError(f"{path} is not a file: remove it, or use another directory")
        sha256, differences = _verify(path, checksum)
        if differences:
            raise InputError(_wrong(path, url, differences))
        return sha256
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open_partial_file(f"{path}.part") as part:
            _transfer(url, part, checksum, attempts, wait)
            sha256, differences = _verify(part.path, checksum)
            if differences and part.joined:  # it may be joined from different files
                part.restart()
                _transfer(url, part, checksum, attempts, wait)
                sha256, differences = _verify(part.path, checksum)
            if differences:
                raise InputError(_wrong(part.path, url, differences))
            part.complete(path)
            return sha256
    except OSError as error:  # those of the network are `TransferError`
        raise InputError(
            f"cannot write {path}.part: {error.strerror or error}: free space, or use another directory"
        ) from error


def _normalized(checksum: str) -> str:
    if not CHECKSUM.fullmatch(checksum.lower()):
        raise InputError(f"invalid checksum {checksum}: use sha256:..., md5:..., or - if none is known")
    return checksum.lower()


def _transfer(url: str, part: PartialFile, checksum: str, attempts: int, wait: float) -> None:
    """Complete `part`, in as many attempts as this takes."""
    failures, most = 0, part.size
    while True:
        try:
            return _fetch(url, part, checksum)
        except TransferError as error:
            reason = masked(" ".join(str(error).split()))
        # Otherwise, a connection that is cut after every few bytes would never end.
        progress = part.size - most >= http_source.MINIMUM_RATE * http_source.WINDOW
        failures = 1 if progress else failures + 1
        most = max(most, part.size)
        if failures == attempts:
            raise InputError(
                f"{masked(url)}: {reason}, {attempts} times: run again to continue, or use a mirror (--mirror)"
            )
        start = f"continuing at byte {part.size:,}" if part.size else "starting over"
        print(f"{masked(url)}: {reason}; {start}", flush=True)
        time.sleep(wait * 2 ** (failures - 1))


def _fetch(url: str, part: PartialFile, checksum: str) -> None:
    """Append what is missing to `part`, or start over if that may belong to another version of the file."""
    name, has_checksum = masked(url), checksum != "-"
    known = part.version if part.version and part.version.url == name else None
    if not has_checksum and not (known and known.validator):
        part.restart()
    headers = {"Range": f"bytes={part.size}-"} if part.size else {}
    if headers and known and known.validator:
        headers["If-Range"] = known.validator
    try:
        response = open_url(url, headers)
    except urllib.error.HTTPError as error:  # 416: the file is not longer than `part`
        if not headers:
            raise InputError(f"{name}: {error.code} {error.reason}: use a mirror (--mirror)") from error
        if has_checksum and not _verify(part.path, checksum)[1]:
            return
        part.restart()
        raise TransferError("the file on the server is not the one of the interrupted download") from error
    with response:
        total = _prepare(response, Version.from_headers(name, response.headers, None), known, part, has_checksum)
        _check_space(name, part, total)
        _append(response, part, total, name)


def _prepare(response: Any, found: Version, known: Version | None, part: PartialFile, has_checksum: bool) -> int | None:
    """Make `part` end where the response begins. Returns the size of the file, or None if it is unknown."""
    length = _count(response.headers.get("Content-Length"))
    if getattr(response, "status", None) != 206:
        part.restart(found._replace(size=length))
        return length
    first, total = _content_range(response.headers.get("Content-Range"))
    if first is None and has_checksum and "Content-Range" not in response.headers:
        first = part.size  # a mistake of the server, but the checksum will tell
    if total is None and length is not None:
        total = part.size + length
    found = found._replace(size=total)
    changed = known is not None and known.differs_from(found)
    confirmed = has_checksum or part.size == 0 or (known is not None and known.is_confirmed_by(found))
    if first != part.size or changed or not confirmed:
        part.restart()
        raise TransferError("the file on the server has changed" if changed else "the server sent another range")
    if part.size == 0:
        part.restart(found)
    part.joined = part.size > 0
    return total


def _append(response: Any, part: PartialFile, total: int | None, url: str) -> None:
    """Append the body of a response to `part`."""
    name = os.path.basename(part.path)[: -len(".part")]
    limit = LONGEST_UNANNOUNCED if total is None else total
    with tqdm.tqdm(total=total, initial=part.size, unit="B", unit_scale=True, desc=name, disable=None) as bar:
        while chunk := read_chunk(response, CHUNK):
            if part.size + len(chunk) > limit:
                part.restart()
                raise InputError(
                    f"{url}: the server sends more than {limit:,} bytes: use a mirror (--mirror), or download the file "
                    f"yourself and specify it as file:///PATH/{name}"
                )
            part.append(chunk)
            bar.update(len(chunk))
    if total is not None and part.size < total:
        raise TransferError(f"connection closed at {part.size:,} of {total:,} bytes")


def _check_space(url: str, part: PartialFile, total: int | None) -> None:
    """Raise InputError if the file cannot fit on the disk."""
    directory = os.path.dirname(part.path) or "."
    free = shutil.disk_usage(directory).free
    if total is not None and total - part.size > free:
        raise InputError(
            f"{url} has {total:,} bytes, but only {free:,} are free in {directory}: free space, or use another "
            "directory"
        )


def _count(text: str | None) -> int | None:
    """Return the number that a header consists of, or None."""
    return int(text) if text and re.fullmatch("[0-9]{1,18}", text) else None


def _content_range(header: str | None) -> tuple[int | None, int | None]:
    """Return the first byte and the size of the file, as far as the header Content-Range gives them."""
    found = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", header or "")
    return (int(found[1]), _count(found[2])) if found else (None, None)


def _verify(path: str, checksum: str) -> tuple[str, str]:
    """Return the SHA-256 of a file, and how it differs from the expected one, or ""."""
    algorithm, _, expected = checksum.partition(":")
    digests = {name: hashlib.new(name, usedforsecurity=False) for name in {"sha256", algorithm} - {"-"}}
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            for digest in digests.values():
                digest.update(chunk)
    found = {name: digest.hexdigest() for name, digest in digests.items()}
    same = checksum == "-" or found[algorithm] == expected
    return found["sha256"], "" if same else f"its {algorithm} is {found[algorithm]}, expected {expected}"


def _wrong(path: str, url: str, differences: str) -> str:
    return (
        f"{path} differs from the expected content of {masked(url)}: {differences}. Remove it and run again, or use a "
        "mirror (--mirror)"
    )
