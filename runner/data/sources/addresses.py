"""Which addresses a link of a stranger may lead to: public ones, and no others."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Written out, since ``is_global`` answers differently from one Python to the next. IANA special-purpose registries.
_REFUSED_4 = [
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by a provider's customers (CGNAT)
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, with the clouds' metadata services
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
]
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_6 = [
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, with Teredo (2001::/32), which embeds IPv4 addresses
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which embeds IPv4 addresses
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
]


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet.

    IPv6 is public inside 2000::/3 only; so IPv4-mapped and -compatible, NAT64 (64:ff9b::/96 and its local range), unique
    local, link-local, site-local and multicast addresses are refused whatever they embed.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _REFUSED_4)
    return address in _PUBLIC_6 and not any(address in network for network in _REFUSED_6)


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and networks as they are written, such as ``10.1.0.0/16``. Raises ``ValueError``."""
    return tuple(ipaddress.ip_network(text.strip()) for text in texts if text.strip())


def is_allowed(address: Address, extra: tuple[Network, ...] = ()) -> bool:
    """Whether a connection may be made: the address is public, or in a network that the machine's owner allowed."""
    return is_public(address) or any(address.version == n.version and address in n for n in extra)
