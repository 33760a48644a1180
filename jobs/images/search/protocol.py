"""What an image source is: it is asked for one product and answers with candidates, best first, or with why there are none.

    found                        candidates follow
    nothing_found, no_url, …     final: asking again gives the same (SearchOutcome)
    TransientError(kind=…)       worth another attempt (TransientKind)

A source is synchronous, thread-safe and bounded in total time by itself. A second source is one more class and one more
item in the sequence given to `search`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from toolkit.errors import ToolkitError, TransientError


class SearchOutcome(StrEnum):
    """How a search ended, for good. A closed list: it is a metric label."""

    FOUND = "found"
    NOTHING_FOUND = "nothing_found"  # the page was read and had no image that can be used
    NO_URL = "no_url"  # the product has no page
    BAD_URL = "bad_url"  # not http or https, or not a URL at all
    NOT_FOUND = "not_found"  # 404, 410, or a host name that does not exist
    HTTP_ERROR = "http_error"  # any other status that another attempt does not change, e.g. 403
    NOT_HTML = "not_html"  # the page is something else, or in an encoding nobody asked for
    TOO_LARGE = "too_large"  # the page is over the limit, counted after decompression
    TOO_MANY_REDIRECTS = "too_many_redirects"
    REFUSED_ADDRESS = "refused_address"  # the host resolves to loopback, private or link-local addresses only


class TransientKind(StrEnum):
    """Kinds of the TransientErrors that sources raise. A closed list."""

    CONNECT = "connect"  # refused, unreachable, or TLS failed
    DNS = "dns"  # the resolver did not answer; a name that does not exist is final
    TIMEOUT = "timeout"  # one step took too long, or all of them together
    DISCONNECT = "disconnect"  # the connection broke in mid-answer
    HTTP_5XX = "http_5xx"
    HTTP_429 = "http_429"


class Unusable(ToolkitError):
    """What was fetched is of no use, and another attempt changes nothing. Does not leave the search."""

    def __init__(self, message: str, outcome: SearchOutcome) -> None:
        super().__init__(message)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Product:
    """What is searched for: a draft, as the catalog names it. `merchant_id`: whose it is, '' where nobody says."""

    draft_id: str
    sku: str
    name: str
    product_url: str | None
    merchant_id: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that was looked at: normalised URL, source label, size in pixels as displayed (None when the header was
    too long to tell), and the type that its first bytes prove."""

    url: str
    source: str
    width: int | None
    height: int | None
    mime: str


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Candidates, best first; `outcome` is FOUND exactly when there are any."""

    candidates: tuple[Candidate, ...]
    outcome: SearchOutcome
    source: str


class ImageSource(Protocol):
    """One place where images are looked for. `name` is short and from a closed list: it is a metric label."""

    name: str

    def find(self, product: Product) -> SearchResult:
        """Candidates for the product, or why not. Raises TransientError, its kind a TransientKind."""


def search(product: Product, sources: Sequence[ImageSource]) -> SearchResult:
    """Ask the sources (at least one) in order; the first that finds something wins.

    When none does, the first TransientError is raised if there was one (another attempt may find something), else the
    last source's answer is returned.
    """
    failed: TransientError | None = None
    result: SearchResult | None = None
    for source in sources:
        try:
            result = source.find(product)
        except TransientError as error:
            failed = failed or error
            continue
        if result.candidates:
            return result
    if failed is not None:
        raise failed
    if result is None:
        raise ValueError("no image source was given")
    return result
