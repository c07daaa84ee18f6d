"""Where letters and messages over HTTP connect to: for no longer than their deadline, and not from a chat into the lab's own network.

The address that is connected to is looked at, and not what a name stood for a moment before: a name may answer differently the
second time, and a server may lead elsewhere. Connections are made by urllib3 for `requests`, for us and for apprise, which lets
nobody give it a session; a hook there looks at those of a thread that asked for it, and leaves all others alone.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import requests
import urllib3.util.connection
from django.conf import settings
from django.utils.translation import gettext as _

from jobs.notifications.deadline import watch


@dataclass
class Way:
    refused: str = ""
    """Why a connection was not made, as a sentence."""


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_current: ContextVar[Way | None] = ContextVar("way", default=None)
_connect = urllib3.util.connection.create_connection


@contextlib.contextmanager
def outside_only() -> Iterator[Way]:
    """What this thread connects to in it is no inner network, but for the hosts in AUTOTRAINER_CHAT_HOSTS."""
    way = Way()
    token = _current.set(way)
    try:
        yield way
    finally:
        _current.reset(token)


def request(method: str, url: str, *, timeout: tuple[float, float], **how: Any) -> requests.Response:
    """As `requests.request`; what it connects to is left when the deadline has passed. `timeout`: to connect and between reads, seconds."""
    return requests.request(method, url, timeout=timeout, **how)


def _guarded(address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
    way = _current.get()
    if way is None:
        return watch(_connect(address, *args, **kwargs))
    host, port = address[0].strip("[]"), address[1]
    if f"{host}:{port}".lower() in settings.AUTOTRAINER.chat_hosts or host.lower() in settings.AUTOTRAINER.chat_hosts:
        return watch(_connect(address, *args, **kwargs))
    found = list(dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
    if inner := sorted(each for each in found if not _is_public(each)):
        told = _("%(host)s is %(address)s, an address of an inner network: whoever runs AutoTrainer can allow it by %(setting)s.")
        way.refused = told % {"host": host, "address": inner[0], "setting": f"AUTOTRAINER_CHAT_HOSTS={host}"}
        raise OSError(way.refused)
    return watch(_first(found, port, *args, **kwargs))


def _first(addresses: list[str], port: int, *args: Any, **kwargs: Any) -> socket.socket:
    """The first of these addresses that answers."""
    for address in addresses[:-1]:
        with contextlib.suppress(OSError):
            return _connect((address, port), *args, **kwargs)
    return _connect((addresses[-1], port), *args, **kwargs)


def _is_public(text: str) -> bool:
    """An address that stands for another one, behind a translator or a tunnel, is what that one is."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        translated = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
        inner = translated or address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        return inner.is_global if inner else address.is_global and not (address.is_multicast or address.is_site_local)
    return address.is_global and not address.is_multicast


urllib3.util.connection.create_connection = _guarded
