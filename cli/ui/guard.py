"""Who may ask the page's server, and what every answer tells the browser. Pure.

Belongs here: the session's token, the checks of a request's headers, and the headers of all answers. Doesn't: routes
(``server.py``).

The token is in the URL's fragment, which no browser sends anywhere, and comes back in a header of its own. There is no
cookie: a page of another origin has nothing that the browser would add to its requests, and may not read ours.

What this does *not* check: which user of this machine connects. Whoever has the token is this user.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final

from shared.model.errors import RefusedError

TOKEN_HEADER: Final = "X-Touchmark-Session"
TOKEN_BYTES: Final = 32
# A page whose name was rebound to 127.0.0.1 sends its own name. The port may differ: it may have been forwarded.
_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_NAVIGATION: Final = ("navigate", "document")
# A page may not be told that this server is there, nor a frame show it; and no text ever becomes markup or a script.
POLICY: Final = "; ".join((
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'",
    "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'",
    "trusted-types 'none'",
))  # fmt: skip
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def check_origin(headers: Mapping[str, str], *, is_page: bool = False) -> None:
    """Refuse a request by a name that was rebound, or from a page of another origin.

    Arguments:
        is_page: it is a GET of the page itself, which holds nothing. A tab may be led there from anywhere: the file
            that opens it is another site (Fetch Metadata, 2.1 to 2.3).

    Raises:
        RefusedError: it is such a request.
    """
    host = headers.get("Host", "")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if name.lower() not in _HOSTS:
        raise RefusedError(f"this server isn't {host[:80]!r}", hint="open the URL that `touchmark ui` printed")
    is_opening = is_page and (headers.get("Sec-Fetch-Mode"), headers.get("Sec-Fetch-Dest")) == _NAVIGATION
    if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and not is_opening:
        raise RefusedError("another page asks", hint="open the URL that `touchmark ui` printed")
    origin = headers.get("Origin")
    if origin is not None and origin != f"http://{host}":
        raise RefusedError("another origin asks", hint="open the URL that `touchmark ui` printed")


def check_change(headers: Mapping[str, str]) -> None:
    """Refuse a change that a page of another origin could have sent: beside the token, whatever a browser says counts.

    A browser names the origin of every POST, and asks before it sends JSON or a header of our own to another one; this
    server answers no such question.

    Raises:
        RefusedError: the request's origin isn't this server, or isn't named; or it isn't JSON.
    """
    if headers.get("Origin") != f"http://{headers.get('Host', '')}":
        raise RefusedError("another origin asks", hint="open the URL that `touchmark ui` printed")
    if headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        raise RefusedError("another page asks", hint="open the URL that `touchmark ui` printed")
    if headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        raise RefusedError("a change is sent as JSON")


def check_token(headers: Mapping[str, str], token: str) -> None:
    """Refuse a request without the session's token.

    Raises:
        RefusedError: it has none, or another one.
    """
    given = headers.get(TOKEN_HEADER, "")
    if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode()):
        raise RefusedError("this page's session is another one", hint="open the URL that `touchmark ui` printed")
