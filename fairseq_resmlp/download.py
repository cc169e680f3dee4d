"""Files of public corpora: fetched with resume and retry, and known by their checksums."""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request

import tqdm

from .errors import InputError

CHUNK = 1 << 20
USER_AGENT = "fairseq-resmlp"  # some servers refuse urllib's own


def download(url: str, path: str, checksum: str, attempts: int = 5, wait: float = 2.0) -> str:
    """Fetch `url` to `path`, unless it is there; what arrived before an interruption is kept and continued.

    Until it is whole and has been checked, the file is named `path`.part.

    Args:
        checksum: "sha256:..." or "md5:..." as somebody recorded it, or "-" where nobody did
        attempts: how often to try when the connection fails without a single byte between
        wait: seconds before the second attempt, doubled for each one after it

    Returns:
        str: the file's sha256

    Raises:
        InputError: no such file on the server, no connection, or another checksum
    """
    algorithm = checksum.partition(":")[0]
    if algorithm not in ("sha256", "md5", "-"):
        raise InputError(f"{checksum} is no checksum: write sha256:..., md5:..., or - where none is known")
    if not url.startswith(("http://", "https://", "ftp://", "file://")):
        raise InputError(f"{url} is no address: it begins with http://, https://, ftp:// or file://")
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
            if error.code == 416:  # nothing after what is here: it was whole, or belongs to another file
                break
            if error.code < 500 and error.code not in (408, 429):
                raise InputError(f"{url}: {error.code} {error.reason}: take a mirror that has it (--mirror)") from error
            reason = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        failures = 1 if _size(part) > before else failures + 1
        if failures == attempts:
            raise InputError(f"{url}: {reason}, {attempts} times: run again to go on, or take a mirror (--mirror)")
        print(f"{url}: {reason}; going on at byte {_size(part):,}", flush=True)
        time.sleep(wait * 2 ** (failures - 1))
    found = _checked(part, url, checksum)
    os.replace(part, path)
    return found


def _fetch(url: str, part: str) -> None:
    """Append to `part` what is missing of `url`, or write it anew if the server cannot continue."""
    have = _size(part)
    headers = {"User-Agent": USER_AGENT, **({"Range": f"bytes={have}-"} if have else {})}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as response:
        continued = getattr(response, "status", None) == 206
        length = response.headers.get("Content-Length")
        total = int(length) + have * continued if length else None
        name = os.path.basename(part)[: -len(".part")]
        with open(part, "ab" if continued else "wb") as out, tqdm.tqdm(
            total=total, initial=have * continued, unit="B", unit_scale=True, desc=name, disable=None
        ) as bar:
            for chunk in iter(lambda: response.read(CHUNK), b""):
                out.write(chunk)
                bar.update(len(chunk))
    if total is not None and _size(part) < total:
        raise ConnectionError(f"cut off at {_size(part):,} of {total:,} bytes")


def _checked(path: str, url: str, checksum: str) -> str:
    algorithm, _, expected = checksum.partition(":")
    digests = {name: hashlib.new(name) for name in {"sha256", algorithm} - {"-"}}
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            for digest in digests.values():
                digest.update(chunk)
    if checksum != "-" and digests[algorithm].hexdigest() != expected:
        raise InputError(
            f"{path} is not the file that {url} was: its {algorithm} is {digests[algorithm].hexdigest()}, expected "
            f"{expected}. Remove it and run again, or take a mirror (--mirror)"
        )
    return digests["sha256"].hexdigest()


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0
