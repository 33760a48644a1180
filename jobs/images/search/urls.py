"""URLs as keys: one spelling for one address. Pure.

An image's primary key is derived from `normalise_url`, so its answers are for ever: a change here doubles every image in
the catalog. That is why it is spelled out here (RFC 3986, section 6.2.2) and not left to a library's next release.
Known weakness: two URLs that differ in the order or in a tracking part of the query are two images.
"""

from __future__ import annotations

import re
import string
from ipaddress import IPv6Address
from urllib.parse import urljoin, urlsplit, urlunsplit

import idna

MAX_URL = 4096
"""Characters. Longer ones are somebody's mistake, and would not fit an index."""

_UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~")
_SUB_DELIMS = "!$&'()*+,;="
_PATH = frozenset(_SUB_DELIMS + ":@/") | _UNRESERVED
_QUERY = _PATH | {"?"}
_USER = frozenset(_SUB_DELIMS + ":") | _UNRESERVED
_PARTS = re.compile(r"%[0-9A-Fa-f]{2}|.", re.DOTALL)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ENDS = "".join(map(chr, range(33)))
_LINE_BREAKS = str.maketrans("", "", "\t\r\n")


def normalise_url(url: str) -> str:
    """The one spelling of an http(s) URL. Idempotent. Raises ValueError for what is not one.

    Scheme and host are lower-case (the host in its ASCII form), default port and fragment are dropped, dot segments
    removed, percent-encoding is upper-case and only where it is needed. The query keeps its order. Backslashes before
    the query are slashes, as browsers have it.
    """
    text = url.strip(_ENDS).translate(_LINE_BREAKS)
    before, mark, after = text.partition("?")
    parts = urlsplit(before.replace("\\", "/") + mark + after)
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise ValueError(f"not an http or https URL: {url[:200]!r}")
    authority = _host(parts.hostname or "", bracketed="[" in parts.netloc)
    if parts.port is not None and parts.port != _DEFAULT_PORTS[scheme]:
        authority += f":{parts.port}"
    user, at, _ = parts.netloc.rpartition("@")
    if at:
        authority = f"{_quoted(user, _USER)}@{authority}"
    path = _without_dots(_quoted(parts.path, _PATH)) or "/"
    normal = urlunsplit((scheme, authority, path, _quoted(parts.query, _QUERY), ""))
    if len(normal) > MAX_URL:
        raise ValueError(f"a URL of more than {MAX_URL} characters: {url[:200]!r}")
    return normal


def resolved(base: str, reference: str) -> str | None:
    """A reference found on a page, as a normalised absolute URL; None when it is not http(s) (data:, javascript:, …)."""
    try:
        return normalise_url(urljoin(base, reference.strip(_ENDS).translate(_LINE_BREAKS).replace("\\", "/")))
    except ValueError:
        return None


def redacted(url: str) -> str:
    """A URL for a span: credentials and the values of the query are replaced, as OpenTelemetry's conventions ask."""
    parts = urlsplit(url)
    _, at, hosts = parts.netloc.rpartition("@")
    query = re.sub(r"=[^&]*", "=REDACTED", parts.query)
    return urlunsplit((parts.scheme, f"REDACTED:REDACTED@{hosts}" if at else hosts, parts.path, query, ""))


def _host(name: str, *, bracketed: bool) -> str:
    if bracketed:
        return f"[{IPv6Address(name).compressed}]"
    if not name.isascii():
        # IDNAError is a UnicodeError, which is a ValueError.
        name = idna.encode(name, uts46=True).decode("ascii")
    if not name or not re.fullmatch(r"[a-z0-9._-]+", name.lower()):
        raise ValueError(f"not a host name: {name[:200]!r}")
    return name.lower()


def _quoted(text: str, allowed: frozenset[str]) -> str:
    def spelled(match: re.Match[str]) -> str:
        part = match.group()
        if len(part) == 3:
            character = chr(int(part[1:], 16))
            return character if character in _UNRESERVED else part.upper()
        # A lone surrogate cannot be encoded; it becomes a question mark rather than an error.
        return (
            part if part in allowed else "".join(f"%{byte:02X}" for byte in part.encode("utf-8", "replace"))
        )

    return _PARTS.sub(spelled, text)


def _without_dots(path: str) -> str:
    """RFC 3986, section 5.2.4."""
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            if len(kept) > 1:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in {".", ".."}:
        kept.append("")
    return "/".join(kept)
