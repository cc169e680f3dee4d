"""Who sends a request: the address of a client, also behind a reverse proxy."""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.types import Scope

from fairseq_resmlp.server.settings import IPNetwork

LOOPBACK = "loopback"
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\d+)?|([\d.]+):\d+")  # [::1]:80, [::1], 192.0.2.1:80


def client_name(scope: Scope, trusted_proxies: Sequence[IPNetwork]) -> str:
    """Return a name of the client that sent a request, for counting its requests.

    The client is the address that is connected. If that is a trusted proxy, it is the last address of X-Forwarded-For
    that is not a trusted proxy: each proxy appends the address that it saw, and everything before can be forged.

    All loopback addresses are one client, because a local process can connect from any of 127.0.0.0/8. So are the
    addresses of an IPv6 /64, which usually belong to one user.
    """
    address = _parse(scope["client"][0]) if scope.get("client") else None
    if address is None:
        return "unknown"
    if _is_in(address, trusted_proxies):
        for entry in reversed(_forwarded(scope)):
            found = _parse(entry)
            if found is None:
                break
            address = found
            if not _is_in(address, trusted_proxies):
                break
    if address.is_loopback:
        return LOOPBACK
    return str(address) if address.version == 4 else str(ip_network((int(address), 64), strict=False))


def is_trusted_proxy(host: str, trusted_proxies: Sequence[IPNetwork]) -> bool:
    """Return whether an address, as text, belongs to a trusted proxy."""
    address = _parse(host)
    return address is not None and _is_in(address, trusted_proxies)


def _forwarded(scope: Scope) -> list[str]:
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    return ",".join(values).split(",")


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    text = text.strip()
    match = _WITH_PORT.fullmatch(text)
    try:
        address = ip_address((match[1] or match[2]) if match else text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_in(address: IPv4Address | IPv6Address, networks: Sequence[IPNetwork]) -> bool:
    return any(address in network for network in networks)
