"""The way to the server, for every command."""

from __future__ import annotations

import sys

from . import servers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .api import Api


def connect(server: servers.Server | None = None) -> Api:
    """Raises NotAllowed where nobody has signed in. Nothing is sent yet."""
    found = server or servers.find()
    if found.url.startswith("http:") and "http.client" not in sys.modules and "ssl" not in sys.modules:
        # http.client would load ssl, a tenth of the time of a `list`, which no http:// address needs.
        sys.modules["ssl"] = None  # type: ignore[assignment]
        try:
            import http.client  # noqa: F401
        finally:
            del sys.modules["ssl"]
    from .api import Api

    return Api(found)
