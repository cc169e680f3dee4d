"""Which Host and Origin headers are accepted: protection from DNS rebinding and from pages of other sites."""

import re
from collections.abc import Collection
from ipaddress import ip_address

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?")
_ANY_ADDRESS = ("0.0.0.0", "::")


def is_ip_address(text: str) -> bool:
    """Return whether a text is an IPv4 or IPv6 address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


class HostCheck:
    """Decides which Host headers name this server.

    In DNS rebinding, a page of another site resolves its own name to the address of this server, and then counts as
    the same origin. Its requests have its own name in the Host header. A page cannot have an address that does not
    belong to it, so if the server listens on all addresses, any address is accepted.

    Args:
        listening: the address that the server listens on
        names: further names
    """

    def __init__(self, listening: str, names: Collection[str] = ()):
        self.names = {"localhost", "127.0.0.1", "::1", *(name.lower() for name in (listening, *names))}
        self.accepts_addresses = listening in _ANY_ADDRESS

    def accepts(self, host: str) -> bool:
        """Return whether a Host header, with or without port, names this server."""
        match = _HOST.fullmatch(host.lower())
        if match is None:
            return False
        name = match[1].strip("[]").removesuffix(".")
        return name in self.names or (self.accepts_addresses and is_ip_address(name))


def is_same_origin(origin: str, host: str) -> bool:
    """Return whether an Origin header names the same host and port as the Host header.

    The scheme is not compared, because a proxy may add TLS.
    """
    scheme, separator, netloc = origin.partition("://")
    return separator != "" and scheme in ("http", "https") and netloc.lower() == host.lower()
