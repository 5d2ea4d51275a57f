"""Whether a server answers, told within seconds."""

from __future__ import annotations

import threading
from contextlib import suppress
from socket import create_connection
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def reachable(url: str, seconds: float = 2.0) -> bool:
    """Whether the server, or the proxy on the way to it, accepts connections."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    answered = threading.Event()

    def connect() -> None:
        with suppress(OSError), create_connection(address, timeout=seconds):
            answered.set()

    caller = threading.Thread(target=connect, daemon=True)  # a thread, because looking a name up knows no timeout
    caller.start()
    caller.join(seconds)
    return answered.is_set()
