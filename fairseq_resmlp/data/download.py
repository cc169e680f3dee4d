"""Downloading files of public corpora, with resume, retries and checksums."""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence

import tqdm

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.unique_names import check_distinct_targets

CHUNK = 1 << 20
USER_AGENT = "fairseq-resmlp"  # some servers refuse urllib's own


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
    paths = [os.path.join(directory, os.path.basename(url)) for url in urls]
    check_distinct_targets(urls, paths, "download one of them yourself, and specify it as file:///PATH/ANOTHER-NAME")
    for (url, checksum), path in zip(files, paths):
        name = os.path.basename(path)
        address = f"{mirror.rstrip('/')}/{name}" if mirror else url
        report(f"{name} from {address}")
        sha256 = download(address, path, checksum)
        report(f"{name}: sha256 {sha256}, {'no checksum to verify' if checksum == '-' else 'verified'}")


def download(url: str, path: str, checksum: str, attempts: int = 5, wait: float = 2.0) -> str:
    """Download `url` to `path` unless it exists, continuing an interrupted download.

    Until it is complete and verified, the file is named `path`.part.

    Args:
        checksum: "sha256:..." or "md5:...", or "-" if none is known
        attempts: number of consecutive attempts without progress
        wait: seconds before the second attempt, doubled for each further one

    Returns:
        str: the SHA-256 of the file

    Raises:
        InputError: the server does not have the file, the connection fails, or the checksum differs
    """
    algorithm = checksum.partition(":")[0]
    if algorithm not in ("sha256", "md5", "-"):
        raise InputError(f"invalid checksum {checksum}: use sha256:..., md5:..., or - if none is known")
    if not url.startswith(("http://", "https://", "ftp://", "file://")):
        raise InputError(f"invalid URL {url}: it must begin with http://, https://, ftp:// or file://")
    if os.path.exists(path):
        return _checked(path, url, checksum)
    part = f"{path}.part"
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    failures = 0
    while True:
        before = _size(part)
        try:
            _fetch(url, part)
            break
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing beyond the existing part: it is complete, or belongs to another file
                break
            if error.code < 500 and error.code not in (408, 429):
                raise InputError(f"{url}: {error.code} {error.reason}: use a mirror (--mirror)") from error
            reason = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        failures = 1 if _size(part) > before else failures + 1
        if failures == attempts:
            raise InputError(f"{url}: {reason}, {attempts} times: run again to continue, or use a mirror (--mirror)")
        print(f"{url}: {reason}; continuing at byte {_size(part):,}", flush=True)
        time.sleep(wait * 2 ** (failures - 1))
    found = _checked(part, url, checksum)
    os.replace(part, path)
    return found


def _fetch(url: str, part: str) -> None:
    """Append the missing part of `url` to `part`, or start over if the server does not support ranges."""
    have = _size(part)
    headers = {"User-Agent": USER_AGENT, **({"Range": f"bytes={have}-"} if have else {})}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as response:
        continued = getattr(response, "status", None) == 206
        length = response.headers.get("Content-Length")
        total = int(length) + have * continued if length else None
        name = os.path.basename(part)[: -len(".part")]
        with (
            open(part, "ab" if continued else "wb") as out,
            tqdm.tqdm(total=total, initial=have * continued, unit="B", unit_scale=True, desc=name, disable=None) as bar,
        ):
            for chunk in iter(lambda: response.read(CHUNK), b""):
                out.write(chunk)
                bar.update(len(chunk))
    if total is not None and _size(part) < total:
        raise ConnectionError(f"connection closed at {_size(part):,} of {total:,} bytes")


def _checked(path: str, url: str, checksum: str) -> str:
    algorithm, _, expected = checksum.partition(":")
    digests = {name: hashlib.new(name) for name in {"sha256", algorithm} - {"-"}}
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            for digest in digests.values():
                digest.update(chunk)
    if checksum != "-" and digests[algorithm].hexdigest() != expected:
        raise InputError(
            f"{path} differs from the expected content of {url}: its {algorithm} is {digests[algorithm].hexdigest()}, "
            f"expected {expected}. Remove it and run again, or use a mirror (--mirror)"
        )
    return digests["sha256"].hexdigest()


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0
