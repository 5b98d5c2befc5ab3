"""Addresses: what counts as one client, and which of them is only a proxy."""

from typing import Optional

import pytest

from chat_actors.connection.addresses import customer, is_global, is_loopback, stands_for_others


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8:0:0:ffff::2", "2001:db8::/64"),
        ("[2001:db8:0:1::1]:4711", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::1"),  # a link's neighbours share the network
        ("64:ff9b::192.0.2.1", "192.0.2.1"),  # from behind a NAT64
        ("unknown", None),
        ("", None),
        ("/run/chat.sock", None),
    ],
)
def test_a_customer_is_an_ipv4_address_or_a_network_of_ipv6(address: str, counted: Optional[str]) -> None:
    assert customer(address) == counted


@pytest.mark.parametrize(
    ("address", "name", "value", "proxy"),
    [
        ("10.0.0.1", "x-forwarded-for", "8.8.8.8", True),  # a container's network
        ("::1", "x-forwarded-for", "8.8.8.8", True),
        ("::ffff:127.0.0.1", "x-forwarded-for", "8.8.8.8", True),
        ("127.0.0.1", "x-forwarded-for", "8.8.8.8, 127.0.0.1", True),  # two proxies on this machine
        ("unknown", "x-forwarded-for", "8.8.8.8", True),  # a Unix socket
        ("10.0.0.1", "forwarded", 'proto=https;for="[2001:db8::1]:80", for=10.0.0.2', True),
        ("10.0.0.1", "forwarded", "proto=https", True),
        ("10.0.0.1", "x-forwarded-proto", "https", True),
        ("10.0.0.1", "x-real-ip", "8.8.8.8", True),
        ("8.8.8.8", "x-forwarded-for", "8.8.8.8, 10.0.0.1", False),  # applied
        ("192.168.0.7", "x-forwarded-for", "192.168.0.7", False),  # applied, in a network at home
        ("192.168.0.7", "x-forwarded-for", "192.168.0.7:4711", False),
        ("192.168.0.7", "forwarded", "for=192.168.0.7", False),
        ("192.168.0.7", "x-forwarded-for", "9.9.9.9, 192.168.0.7", False),  # the first is the client's own word
        ("192.168.0.7", "forwarded", "for=9.9.9.9, for=192.168.0.7;proto=https", False),
        ("127.0.0.1", "x-forwarded-for", "127.0.0.1", False),  # a client on this machine
        ("8.8.4.4", "x-forwarded-for", "8.8.8.8", True),
        ("10.0.0.1", "user-agent", "8.8.8.8", False),
    ],
)
def test_headers_that_nobody_has_applied_name_other_clients(address: str, name: str, value: str, proxy: bool) -> None:
    assert stands_for_others(address, [(name.encode(), value.encode())]) is proxy


@pytest.mark.parametrize(
    ("address", "loopback", "global_"),
    [
        ("127.0.1.1", True, False),
        ("::1", True, False),
        ("::ffff:127.0.0.1", True, False),
        ("10.0.0.1", False, False),
        ("8.8.8.8", False, True),
        ("64:ff9b::8.8.8.8", False, True),
        ("/run/chat.sock", False, False),
    ],
)
def test_an_address_is_of_this_machine_of_the_public_network_or_of_neither(
    address: str, loopback: bool, global_: bool
) -> None:
    assert (is_loopback(address), is_global(address)) == (loopback, global_)
