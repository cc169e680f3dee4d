"""Who counts as a client."""

from ipaddress import ip_network

import pytest

from fairseq_resmlp.server.clients import LOOPBACK, client_name

PROXIES = [ip_network("10.0.0.0/8"), ip_network("127.0.0.1"), ip_network("2001:db8:1::/48")]


def name(peer, *forwarded, proxies=PROXIES):
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    return client_name({"client": peer and (peer, 1234), "headers": headers}, proxies)


@pytest.mark.parametrize(
    "peer, forwarded, expected",
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("127.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("::ffff:10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["forged, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.9, 10.1.1.1"], "203.0.113.9"),
        ("10.0.0.1", ["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::/64"),
        ("2001:db8:1::5", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["garbage"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["10.2.2.2"], "10.2.2.2"),
        ("10.0.0.1", ["127.5.5.5"], LOOPBACK),
        (None, [], "unknown"),
        ("not an address", [], "unknown"),
    ],
)
def test_a_client_is_the_last_address_that_is_not_a_trusted_proxy(peer, forwarded, expected):
    assert name(peer, *forwarded) == expected


@pytest.mark.parametrize("peer", ["192.0.2.1", "127.0.0.2", "127.255.255.254", "::1"])
def test_the_header_of_others_is_ignored(peer):
    assert name(peer, "203.0.113.9") == name(peer)


def test_without_trusted_proxies_the_header_is_ignored():
    assert name("127.0.0.1", "203.0.113.9", proxies=[]) == LOOPBACK


@pytest.mark.parametrize(
    "one, other, is_same",
    [
        ("127.0.0.1", "127.9.8.7", True),
        ("127.0.0.1", "::1", True),
        ("127.0.0.1", "::ffff:127.0.0.5", True),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_addresses_of_one_user_are_one_client(one, other, is_same):
    assert (name(one) == name(other)) == is_same
