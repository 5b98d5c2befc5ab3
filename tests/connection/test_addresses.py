"""Addresses: what counts as one client, and which of them is only a proxy."""

from typing import Optional

import pytest

from chat_actors.connection.addresses import customer, is_proxy


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8:0:0:ffff::2", "2001:db8::/64"),
        ("[2001:db8:0:1::1]:4711", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
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
        ("10.0.0.1", "x-forwarded-for", "8.8.8.8, 10.0.0.1", True),  # applied, up to a second proxy
        ("unknown", "x-forwarded-for", "8.8.8.8", True),  # a Unix socket
        ("10.0.0.1", "forwarded", 'proto=https;for="[2001:db8::1]:80", for=10.0.0.1', True),
        ("10.0.0.1", "forwarded", "proto=https", True),
        ("10.0.0.1", "x-forwarded-proto", "https", True),
        ("10.0.0.1", "x-real-ip", "8.8.8.8", True),
        ("8.8.8.8", "x-forwarded-for", "8.8.8.8, 10.0.0.1", False),  # applied
        ("192.168.0.7", "x-forwarded-for", "192.168.0.7", False),  # applied, in a network at home
        ("192.168.0.7", "x-forwarded-for", "192.168.0.7:4711", False),
        ("192.168.0.7", "forwarded", "for=192.168.0.7", False),
        ("8.8.4.4", "x-forwarded-for", "8.8.8.8", False),  # a client's own word
        ("10.0.0.1", "user-agent", "8.8.8.8", False),
    ],
)
def test_a_proxy_is_a_near_address_with_a_client_in_front(address: str, name: str, value: str, proxy: bool) -> None:
    assert is_proxy(address, [(name.encode(), value.encode())]) is proxy
