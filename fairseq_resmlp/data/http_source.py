"""Requests to the servers of public corpora: time limits, passwords in addresses, and one-line errors."""

import http.client
import io
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from fairseq_resmlp.common.errors import InputError

USER_AGENT = "fairseq-resmlp"  # some servers refuse urllib's own
TIMEOUT = 60.0  # seconds without a byte
WINDOW = 60.0  # seconds over which the rate of transfer is averaged
MINIMUM_RATE = 1024  # bytes per second
TRY_AGAIN = (408, 425, 429)  # statuses below 500 that another attempt may not have


class TransferError(Exception):
    """A failure that another attempt may not have."""


def masked(text: str) -> str:
    """Return text on one line, without passwords and queries of URLs, which may be access tokens."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return re.sub(r"\S+", lambda word: _masked_word(word[0]), text)


def _masked_word(word: str) -> str:
    before, slashes, rest = word.partition("//")
    if not slashes:
        return word
    _, at, rest = rest.rpartition("@")
    address, question, query = rest.partition("?")
    _, quote, after = query.partition("'")
    return f"{before}//{'***@' if at else ''}{address}{question}{'...' if query else ''}{quote}{after}"


def check_url(url: str) -> None:
    """Raise InputError if `url` cannot be requested."""
    if not url.startswith(("http://", "https://", "file://")):
        raise InputError(f"invalid URL {masked(url)}: it must begin with http://, https:// or file://")
    if os.path.basename(re.split("[?#]", url)[0]) in ("", ".", ".."):
        raise InputError(f"invalid URL {masked(url)}: it must end with the name of a file")
    scheme = url.partition(":")[0]
    try:
        parts = urlsplit(url)
        usable = parts.port != 0 and bool(parts.hostname)  # reading .port checks it
    except ValueError:
        usable = False
    if scheme == "file":
        if parts.netloc not in ("", "localhost") or not os.path.isfile(_local_path(url)):
            raise InputError(f"{url}: file not found: specify file:///PATH, the absolute path of a file")
    elif not usable:  # it may contain a password, in a place where it cannot be recognized
        raise InputError(
            f"invalid URL {scheme}://...: specify {scheme}://HOST[:PORT]/PATH. Characters such as / and # in a "
            "password must be percent-encoded"
        )


def _local_path(url: str) -> str:
    return urllib.request.url2pathname(urlsplit(url).path)


def open_url(url: str, headers: Mapping[str, str]) -> Any:
    """Send a request. A user name and password in `url` are sent to that server only.

    Returns:
        the response, for use in a `with` statement. Reading from it raises `TransferError` through `read_chunk`.

    Raises:
        InputError: another attempt would fail, too
        TransferError: another attempt may succeed
        urllib.error.HTTPError: with code 416: the server has no bytes in the requested range
    """
    parts = urlsplit(url)
    user_info, _, host = parts.netloc.rpartition("@")
    path, query = (quote(part, safe="%/:=&?~+!$,;'@()*[]|") for part in (parts.path, parts.query))
    address = parts._replace(netloc=host, path=path, query=query).geturl()
    handlers: list[urllib.request.BaseHandler] = [_HTTPHandler(), _HTTPSHandler()]
    if user_info:
        user, _, password = map(unquote, user_info.partition(":"))
        passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
        passwords.add_password(None, f"{parts.scheme}://{host}/", user, password, is_authenticated=True)
        handlers.append(urllib.request.HTTPBasicAuthHandler(passwords))
    request = urllib.request.Request(address, headers={"User-Agent": USER_AGENT, **headers})
    try:
        response = urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            raise
        reason = f"{error.code} {error.reason}"
        if error.code < 500 and error.code not in TRY_AGAIN:
            raise InputError(masked(f"{url}: {' '.join(reason.split())}: use a mirror (--mirror)")) from error
        raise TransferError(reason) from error
    except (ValueError, http.client.InvalidURL) as error:
        raise InputError(masked(f"{url}: {error}: use a mirror (--mirror)")) from error
    except (OSError, http.client.HTTPException) as error:
        if parts.scheme == "file":
            raise InputError(f"{url}: {getattr(error, 'reason', error)}") from error
        raise TransferError(_reason(error)) from error
    problem = _problem(response, url)
    if problem:
        response.close()
        raise InputError(masked(f"{url}: {problem}: use a mirror (--mirror), or download it yourself and use file://"))
    return response


def read_chunk(response: Any, size: int) -> bytes:
    """Return the next bytes of a response as soon as there are any, at most `size`, and b"" at its end.

    Raises:
        TransferError: the connection has failed, or is slower than MINIMUM_RATE
    """
    try:
        return bytes(response.read1(size))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise TransferError(_reason(error)) from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", error)) or type(error).__name__


def _problem(response: Any, url: str) -> str | None:
    """Return why a response does not contain the file, if so."""
    status = getattr(response, "status", None)  # None: a local file
    if status not in (None, 200, 206):
        return f"unexpected status {status}"
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    # Many servers describe .gz files in this way. They send them as they are.
    described = encoding in ("gzip", "x-gzip") and url.endswith((".gz", ".tgz"))
    if encoding not in ("", "identity") and not described:
        return f"the server sends it in another encoding, {encoding}"
    return None


class _SteadyReader(io.RawIOBase):
    """Reads from a socket, and raises TimeoutError if data arrives more slowly than MINIMUM_RATE for WINDOW seconds.

    Only time spent waiting for data counts. This includes the headers of a response.
    """

    def __init__(self, raw: io.RawIOBase):
        self.raw, self.received, self.waited = raw, 0, 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        start = time.monotonic()
        count: int | None = self.raw.readinto(buffer)
        self.waited += time.monotonic() - start
        self.received += count or 0
        if self.waited >= WINDOW:
            if self.received < MINIMUM_RATE * self.waited:
                raise TimeoutError(f"slower than {MINIMUM_RATE:,} bytes per second for {WINDOW:.0f} s")
            self.received, self.waited = 0, 0.0
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()


class _SteadyResponse(http.client.HTTPResponse):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fp = io.BufferedReader(_SteadyReader(self.fp.detach()))


class _SteadyHandler(urllib.request.AbstractHTTPHandler):
    def do_open(self, http_class: Any, req: urllib.request.Request, **http_conn_args: Any) -> http.client.HTTPResponse:
        def connect(*args: Any, **kwargs: Any) -> http.client.HTTPConnection:
            connection: http.client.HTTPConnection = http_class(*args, **kwargs)
            connection.response_class = _SteadyResponse
            return connection

        return super().do_open(connect, req, **http_conn_args)


class _HTTPHandler(_SteadyHandler, urllib.request.HTTPHandler):
    pass


class _HTTPSHandler(_SteadyHandler, urllib.request.HTTPSHandler):
    pass
