"""Host and Origin headers."""

import pytest

from fairseq_resmlp.server.hosts import HostCheck, is_same_origin


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:7860", "localhost.", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:7860"]
)
def test_names_of_this_machine_are_accepted(host):
    assert HostCheck("127.0.0.1").accepts(host)


@pytest.mark.parametrize(
    "host",
    [
        *("", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "evil.example:7860", "127.1"),
        *("2130706433", "0x7f.0.0.1", "192.0.2.1", "[::2]", "::1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:123456"),
        *(
            "127.0.0.1 evil.example",
            "127.0.0.1,evil.example",
            "user@127.0.0.1",
            "127.0.0.1/",
            "[127.0.0.1",
            "localhost..",
        ),
    ],
)
def test_other_names_are_refused(host):
    assert not HostCheck("127.0.0.1").accepts(host)


def test_the_address_of_the_server_and_further_names_are_accepted():
    check = HostCheck("192.0.2.1", ["Translate.example.org"])
    assert check.accepts("192.0.2.1:7860") and check.accepts("translate.example.org")
    assert not check.accepts("192.0.2.2")


@pytest.mark.parametrize("listening", ["0.0.0.0", "::"])
def test_on_all_interfaces_any_address_is_accepted_but_no_other_name(listening):
    check = HostCheck(listening)
    assert check.accepts("192.0.2.1:7860") and check.accepts("[2001:db8::1]:7860")
    assert not check.accepts("evil.example") and not check.accepts("192.0.2.1.evil.example")


@pytest.mark.parametrize(
    "origin, host, is_same",
    [
        ("http://127.0.0.1:7860", "127.0.0.1:7860", True),
        ("https://translate.example.org", "translate.example.org", True),
        ("http://127.0.0.1:8000", "127.0.0.1:7860", False),
        ("http://localhost:7860", "127.0.0.1:7860", False),
        ("http://evil.example", "127.0.0.1:7860", False),
        ("null", "null", False),
        ("file://", "", False),
        ("", "127.0.0.1", False),
    ],
)
def test_an_origin_is_compared_with_the_host(origin, host, is_same):
    assert is_same_origin(origin, host) == is_same
