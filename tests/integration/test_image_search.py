"""The image search against real servers: what it finds, what it gives up on, what it would try again, what it never does."""

from __future__ import annotations

import gzip
import io
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from PIL import Image

from jobs.demo.shop import Shop
from jobs.images.search import addresses
from jobs.images.search.addresses import is_public
from jobs.images.search.client import WebClient
from jobs.images.search.product_page import ProductPage
from jobs.images.search.protocol import (
    Candidate,
    Product,
    SearchOutcome,
    SearchResult,
    TransientKind,
    search,
)
from jobs.images.settings import ImageSettings
from tests.web import Request, Web, serving
from toolkit.errors import SettingError, TransientError
from toolkit.settings import Settings

SETTINGS = ImageSettings(allow_private=True)
HASTY = replace(SETTINGS, search_deadline=0.4, image_deadline=0.3)
"""For answers that never end: the deadline is what ends them."""

Find = Callable[..., SearchResult]


@contextmanager
def open_search(
    settings: ImageSettings, release: str, **options: Any
) -> Iterator[Callable[[Product], SearchResult]]:
    with WebClient(settings, release=release, **options) as web:
        yield partial(search, sources=[ProductPage(web, settings)])


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with Shop() as open_shop:
        yield open_shop


@pytest.fixture
def find() -> Iterator[Find]:
    """Search for a page's images, with settings of choice."""
    with ExitStack() as stack:

        def found(url: str | None, settings: ImageSettings = SETTINGS, **options: Any) -> SearchResult:
            look = stack.enter_context(open_search(settings, "1.2.3", **options))
            return look(Product("draft", "MUG", "Mug", url))

        yield found


def picture(kind: str = "JPEG", size: tuple[int, int] = (400, 300), **options: Any) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, "teal").save(data, kind, **options)
    return data.getvalue()


def page(*images: str) -> str:
    return "<head>" + "".join(f'<meta property="og:image" content="{image}">' for image in images)


def only(result: SearchResult) -> Candidate:
    (candidate,) = result.candidates
    return candidate


# What a decent shop gives


@pytest.mark.parametrize(
    ("sku", "mime", "images"),
    [("MUG-01", "image/jpeg", 3), ("LAMP-02", "image/webp", 3), ("THROW-03", "image/png", 2)],
)
def test_every_shape_of_page_gives_its_images_in_order(
    shop: Shop, find: Find, sku: str, mime: str, images: int
) -> None:
    result = find(shop.product_url(sku))
    wanted = [shop.url + path for path in shop.products[sku].image_paths()]
    assert (result.outcome, result.source) == (SearchOutcome.FOUND, "product_page")
    assert list(result.candidates) == [
        Candidate(url, "product_page", 640, 480, mime) for url in wanted[:images]
    ]


def test_no_image_no_page_and_no_url_are_final_and_told_apart(shop: Shop, find: Find) -> None:
    assert find(shop.product_url("CANDLE-05")).outcome is SearchOutcome.NOTHING_FOUND
    assert find(shop.product_url("VASE-06")).outcome is SearchOutcome.NOT_FOUND
    assert find(None).outcome is SearchOutcome.NO_URL
    assert find("mug.html").outcome is SearchOutcome.BAD_URL


def test_a_purchase_order_names_every_page(shop: Shop) -> None:
    head, *lines = shop.purchase_order("PO-1", "m1").splitlines()
    assert head.endswith("sku,product_name,quantity,unit_cost,product_url")
    assert [line.rpartition(",")[2] for line in lines] == [shop.product_url(sku) for sku in shop.products]


def test_a_held_page_waits_for_its_release(find: Find) -> None:
    with Shop() as own, own.hold("MUG-01") as held, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(find, own.product_url("MUG-01"))
        assert held.reached.wait(10)
        assert not waiting.done()
        assert find(own.product_url("THROW-03")).candidates
        held.release()
        assert waiting.result(10).candidates


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("500", TransientKind.HTTP_5XX), ("hang", TransientKind.TIMEOUT), ("slow", TransientKind.TIMEOUT),
     ("refuse", TransientKind.DISCONNECT)],
)  # fmt: skip
def test_each_fault_of_the_shop_is_worth_another_attempt_and_heals(fault: Any, kind: str, find: Find) -> None:
    with Shop() as own:
        own.fail(fault, "MUG-01")
        with pytest.raises(TransientError) as raised:
            find(own.product_url("MUG-01"), HASTY)
        assert raised.value.kind == kind
        assert find(own.product_url("BOARD-04")).candidates
        own.heal()
        assert find(own.product_url("MUG-01")).candidates


def test_searches_of_one_client_run_side_by_side(shop: Shop) -> None:
    with open_search(SETTINGS, "1") as look, ThreadPoolExecutor(8) as pool:
        products = [
            Product("d", sku, "n", shop.product_url(sku)) for sku in ("MUG-01", "LAMP-02", "THROW-03") * 8
        ]
        assert [len(result.candidates) for result in pool.map(look, products)] == [3, 3, 2] * 8


# What pages do


def test_redirects_are_followed_and_relative_images_follow_the_last(web: Web, find: Find) -> None:
    web.serve("/old", b"", status=301, Location="/new/mug")
    web.page("/new/mug", page("a.jpg"))
    image = web.serve("/new/a.jpg", picture(), Content_Type="image/jpeg")
    assert only(find(web.url + "/old")).url == image


def test_a_redirect_loop_ends(web: Web, find: Find) -> None:
    url = web.serve("/loop", b"", status=302, Location="/loop")
    assert find(url).outcome is SearchOutcome.TOO_MANY_REDIRECTS
    assert len(web.seen) == 1 + SETTINGS.max_redirects


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/x", "file:///etc/passwd", "http://[", "http://a b/"])
def test_a_redirect_to_what_is_no_web_page_is_final(target: str, web: Web, find: Find) -> None:
    assert find(web.serve("/away", b"", status=302, Location=target)).outcome is SearchOutcome.BAD_URL


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(404, SearchOutcome.NOT_FOUND), (410, SearchOutcome.NOT_FOUND), (403, SearchOutcome.HTTP_ERROR),
     (304, SearchOutcome.HTTP_ERROR), (418, SearchOutcome.HTTP_ERROR)],
)  # fmt: skip
def test_a_final_status_gives_nothing(status: int, outcome: SearchOutcome, web: Web, find: Find) -> None:
    assert find(web.page("/p", page("/a.jpg"), status)).outcome is outcome


@pytest.mark.parametrize(
    ("status", "kind"),
    [(500, TransientKind.HTTP_5XX), (503, TransientKind.HTTP_5XX), (429, TransientKind.HTTP_429),
     (408, TransientKind.TIMEOUT)],
)  # fmt: skip
def test_a_passing_status_is_worth_another_attempt(status: int, kind: str, web: Web, find: Find) -> None:
    with pytest.raises(TransientError) as raised:
        find(web.page("/p", "", status))
    assert raised.value.kind == kind


@pytest.mark.parametrize("content_type", ["application/pdf", "image/jpeg", "text/plain; charset=utf-8"])
def test_another_content_type_is_not_html(content_type: str, web: Web, find: Find) -> None:
    url = web.serve("/p", page("/a.jpg").encode(), Content_Type=content_type)
    assert find(url).outcome is SearchOutcome.NOT_HTML


def test_a_page_without_a_type_is_looked_at(web: Web, find: Find) -> None:
    web.serve("/a.jpg", picture())
    assert find(web.serve("/p", b"\n" + page("/a.jpg").encode(), Content_Type="")).candidates
    assert find(web.serve("/q", b"%PDF-1.7", Content_Type="")).outcome is SearchOutcome.NOT_HTML


@pytest.mark.parametrize(
    ("body", "encoding"), [(b"<p>", "br"), (b"not gzip at all", "gzip"), (b"<p>", "gzip, gzip")]
)
def test_an_encoding_nobody_asked_for_or_a_broken_one_is_final(
    body: bytes, encoding: str, web: Web, find: Find
) -> None:
    assert find(web.serve("/p", body, Content_Encoding=encoding)).outcome is SearchOutcome.NOT_HTML


def test_a_gzipped_page_is_read(web: Web, find: Find) -> None:
    web.serve("/a.jpg", picture())
    url = web.serve("/p", gzip.compress(page("/a.jpg").encode()), Content_Encoding="gzip")
    assert find(url).candidates


def test_a_huge_page_is_too_large_and_not_read_to_its_end(web: Web, find: Find) -> None:
    hung_up = threading.Event()

    def endless(request: Request) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "text/html")
        request.end_headers()
        try:
            while not request.ended.is_set():
                request.wfile.write(b"<p>" * 20_000)
        except OSError:
            hung_up.set()

    assert find(web.does("/p", endless)).outcome is SearchOutcome.TOO_LARGE
    assert hung_up.wait(10)


def test_a_gzip_bomb_is_defused_at_the_limit(web: Web, find: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [0]
    real = zlib.decompressobj

    class Counting:
        """zlib's own object, with its output counted."""

        def __init__(self, *args: Any) -> None:
            self.inner = real(*args)

        def decompress(self, *args: Any) -> bytes:
            piece = self.inner.decompress(*args)
            made[0] += len(piece)
            return piece

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    bomb = gzip.compress(b"\0" * 100_000_000)
    url = web.serve("/p", bomb, Content_Encoding="gzip")
    monkeypatch.setattr(zlib, "decompressobj", Counting)
    assert find(url).outcome is SearchOutcome.TOO_LARGE
    assert SETTINGS.max_html_bytes < made[0] <= SETTINGS.max_html_bytes + 64 * 1024


def drip(request: Request, head: bytes, drop: bytes) -> None:
    """Never silent for long, never done."""
    request.close_connection = True
    request.wfile.write(head)
    while not request.ended.wait(0.02):
        request.wfile.write(drop)


@pytest.mark.parametrize(
    ("head", "drop"),
    [(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n", b" "), (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
     (b"", b"")],
    ids=["the body", "the headers", "nothing"],
)  # fmt: skip
def test_what_drips_or_hangs_ends_at_the_deadline(head: bytes, drop: bytes, web: Web, find: Find) -> None:
    with pytest.raises(TransientError) as raised:
        find(web.does("/p", lambda request: drip(request, head, drop)), HASTY)
    assert raised.value.kind == TransientKind.TIMEOUT


def test_an_answer_cut_off_in_mid_body_is_worth_another_attempt(web: Web, find: Find) -> None:
    def cut(request: Request) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 999\r\n\r\n<p>")
        request.close_connection = True

    with pytest.raises(TransientError) as raised:
        find(web.does("/p", cut))
    assert raised.value.kind == TransientKind.DISCONNECT


def test_a_refused_connection_is_worth_another_attempt(find: Find) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port
        with pytest.raises(TransientError) as raised:
            find(f"http://127.0.0.1:{unheard.getsockname()[1]}/")
    assert raised.value.kind == TransientKind.CONNECT


def test_cookies_are_neither_kept_nor_sent_and_the_agent_says_who_asks(web: Web, find: Find) -> None:
    web.serve("/old", b"", status=302, Location="/p", Set_Cookie="session=1; Path=/")
    web.page("/p", page())
    find(web.url + "/old")
    assert web.paths == ["/old", "/p"]
    assert all("Cookie" not in headers for _, headers in web.seen)
    assert {headers["User-Agent"] for _, headers in web.seen} == {"freshfetch/1.2.3"}


# Names and addresses


def answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], list[str]]) -> None:
    """The resolver of the system, with an answer of ours: no test may depend on a network's."""

    real = socket.getaddrinfo

    def getaddrinfo(host: str, *rest: Any, **named: Any) -> list[Any]:
        if host[0].isdigit():
            return real(host, *rest, **named)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in answer()]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", getaddrinfo)


def failing(error: OSError) -> Callable[[], list[str]]:
    def fail() -> list[str]:
        raise error

    return fail


def test_a_host_that_does_not_exist_is_final(find: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, failing(socket.gaierror(socket.EAI_NONAME, "unknown")))
    assert find("http://gone.example/p").outcome is SearchOutcome.NOT_FOUND


def test_a_resolver_in_trouble_is_worth_another_attempt(find: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, failing(socket.gaierror(socket.EAI_AGAIN, "again")))
    with pytest.raises(TransientError) as raised:
        find("http://shop.example/p")
    assert raised.value.kind == TransientKind.DNS


def test_a_resolver_that_hangs_is_left_behind_at_the_deadline(
    web: Web, find: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, lambda: ["127.0.0.1"] * web.ended.wait())
    with pytest.raises(TransientError) as raised:
        find("http://shop.example/p", HASTY)
    assert raised.value.kind == TransientKind.DNS


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0", "[::1]", "[::ffff:127.0.0.1]"])
def test_a_private_address_is_refused_unless_allowed(host: str, web: Web, find: Find) -> None:
    port = web.url.rpartition(":")[2]
    web.page("/p", page("/a.jpg"))
    assert find(f"http://{host}:{port}/p", ImageSettings()).outcome is SearchOutcome.REFUSED_ADDRESS
    assert web.seen == []


def test_a_name_that_resolves_to_a_private_address_is_refused(
    web: Web, find: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, lambda: ["127.0.0.1", "10.0.0.1"])
    result = find(f"http://shop.example:{web.url.rpartition(':')[2]}/p", ImageSettings())
    assert result.outcome is SearchOutcome.REFUSED_ADDRESS
    assert web.seen == []


@pytest.fixture
def public_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 counts as public, 127.0.0.2 does not: so a redirect or an image can lead from outside to inside."""
    monkeypatch.setattr("jobs.images.search.client.is_public", lambda address: address == "127.0.0.1")


@pytest.mark.usefixtures("public_here")
def test_a_redirect_to_a_private_address_is_refused(web: Web, find: Find) -> None:
    inside = web.page("/inside", page()).replace("127.0.0.1", "127.0.0.2")
    url = web.serve("/p", b"", status=302, Location=inside)
    assert find(url, ImageSettings()).outcome is SearchOutcome.REFUSED_ADDRESS
    assert web.paths == ["/p"]


@pytest.mark.usefixtures("public_here")
def test_an_image_at_a_private_address_is_dropped(web: Web, find: Find) -> None:
    inside = web.serve("/a.jpg", picture()).replace("127.0.0.1", "127.0.0.2")
    assert find(web.page("/p", page(inside)), ImageSettings()).outcome is SearchOutcome.NOTHING_FOUND
    assert web.paths == ["/p"]


@pytest.mark.usefixtures("public_here")
def test_a_name_is_resolved_once_so_a_second_answer_changes_nothing(
    web: Web, find: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    answering(monkeypatch, lambda: next(answers))
    web.page("/p", page())
    result = find(f"http://rebinding.example:{web.url.rpartition(':')[2]}/p", ImageSettings())
    assert result.outcome is SearchOutcome.NOTHING_FOUND
    assert next(answers) == ["127.0.0.2"]


@pytest.mark.parametrize(
    ("address", "public"),
    [("93.184.216.34", True), ("2606:4700::1111", True), ("64:ff9b::808:808", True), ("2002:808:808::1", True),
     ("127.0.0.1", False), ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False), ("0.0.0.0", False),  # noqa: S104
     ("169.254.169.254", False), ("100.64.0.1", False), ("224.0.0.1", False), ("255.255.255.255", False),
     ("::", False), ("::1", False), ("fe80::1%eth0", False), ("fc00::1", False), ("fec0::1", False),
     ("ff02::1", False), ("::ffff:10.0.0.1", False), ("::10.0.0.1", False), ("64:ff9b::a00:1", False),
     ("64:ff9b:1::1", False), ("2002:7f00:1::", False), ("2001:db8::1", False)],
)  # fmt: skip
def test_only_addresses_of_the_open_internet_are_public(address: str, public: bool) -> None:
    assert ip_address(address)
    assert is_public(address) is public


# What images do


@pytest.mark.parametrize(
    ("kind", "mime"),
    [
        ("JPEG", "image/jpeg"),
        ("PNG", "image/png"),
        ("GIF", "image/gif"),
        ("WEBP", "image/webp"),
        ("AVIF", "image/avif"),
    ],
)
def test_type_and_size_come_from_the_bytes_and_not_from_what_is_said(
    kind: str, mime: str, web: Web, find: Find
) -> None:
    web.serve("/a.txt", picture(kind), Content_Type="text/plain")
    assert only(find(web.page("/p", page("/a.txt")))) == Candidate(
        web.url + "/a.txt", "product_page", 400, 300, mime
    )


def png_of(width: int, height: int) -> bytes:
    """The header of a PNG of any size: a bomb is a claim, too."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + b"\0" * 99
    )


USELESS = {
    "a text": b"This is no picture at all, whatever its name says.",
    "a text shorter than a signature": b"hi",
    "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="900" height="900"></svg>',
    "nothing": b"",
    "a JPEG cut off in its header": picture()[:100],
    "an icon": picture(size=(199, 400)),
    "a bomb of pixels": png_of(60_000, 60_000),
    "a PNG of no size": png_of(0, 0),
}


@pytest.mark.parametrize("content", USELESS.values(), ids=USELESS)
def test_what_is_no_usable_image_is_dropped_and_the_next_is_taken(
    content: bytes, web: Web, find: Find
) -> None:
    web.serve("/bad.jpg", content, Content_Type="image/jpeg")
    assert find(web.page("/p", page("/bad.jpg"))).outcome is SearchOutcome.NOTHING_FOUND
    good = web.serve("/good.jpg", picture())
    assert only(find(web.page("/q", page("/bad.jpg", "/good.jpg")))).url == good


def test_only_the_beginning_of_an_image_is_read(web: Web, find: Find) -> None:
    hung_up = threading.Event()

    def endless(request: Request) -> None:
        request.send_response(200)
        request.end_headers()
        try:
            request.wfile.write(picture())
            while not request.ended.is_set():
                request.wfile.write(b"\0" * 60_000)
        except OSError:
            hung_up.set()

    web.does("/a.jpg", endless)
    assert only(find(web.page("/p", page("/a.jpg")))).width == 400
    assert hung_up.wait(10)
    assert dict(web.seen)["/a.jpg"]["Range"] == "bytes=0-65535"


def test_a_jpeg_whose_header_is_beyond_the_limit_is_kept_with_unknown_size(web: Web, find: Find) -> None:
    plain = picture()
    profile = b"\xff\xe2" + struct.pack(">H", 65_000) + b"\0" * 64_998
    web.serve("/a.jpg", plain[:2] + profile * 2 + plain[2:])
    candidate = only(find(web.page("/p", page("/a.jpg"))))
    assert (candidate.width, candidate.height, candidate.mime) == (None, None, "image/jpeg")


def test_no_more_images_are_asked_for_than_are_kept(web: Web, find: Find) -> None:
    names = [f"/{number}.jpg" for number in range(9)]
    for name in names:
        web.serve(name, picture())
    result = find(web.page("/p", page(*names)))
    assert [candidate.url for candidate in result.candidates] == [web.url + name for name in names[:3]]
    assert web.paths == ["/p", *names[:3]]


@pytest.mark.parametrize("status", [404, 416])
def test_an_image_that_is_gone_is_dropped(status: int, web: Web, find: Find) -> None:
    web.serve("/a.jpg", b"", status=status)
    assert find(web.page("/p", page("/a.jpg"))).outcome is SearchOutcome.NOTHING_FOUND


def test_an_image_that_fails_in_passing_matters_only_if_there_is_no_other(web: Web, find: Find) -> None:
    web.serve("/a.jpg", b"", status=503)
    with pytest.raises(TransientError) as raised:
        find(web.page("/p", page("/a.jpg", "/gone.jpg")))
    assert raised.value.kind == TransientKind.HTTP_5XX
    good = web.serve("/b.jpg", picture())
    assert only(find(web.page("/q", page("/a.jpg", "/b.jpg")))).url == good


def test_a_dripping_image_does_not_take_the_others_time(web: Web, find: Find) -> None:
    web.does(
        "/a.jpg", lambda request: drip(request, b"HTTP/1.1 200 OK\r\n\r\n\xff\xd8\xff\xe2\xff\xff", b"x")
    )
    good = web.serve("/b.jpg", picture())
    settings = replace(SETTINGS, image_deadline=0.2, search_deadline=3)
    assert only(find(web.page("/p", page("/a.jpg", "/b.jpg")), settings)).url == good


# Spans, sources, settings


@pytest.fixture
def spans() -> Iterator[tuple[Any, Callable[[], tuple[ReadableSpan, ...]]]]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider.get_tracer("test"), exporter.get_finished_spans
    provider.shutdown()


def test_each_request_is_a_client_span_without_secrets(web: Web, find: Find, spans: Any) -> None:
    tracer, finished = spans
    web.serve("/old?token=s3cret", b"", status=302, Location="/p")
    web.page("/p", page("/gone.jpg"))
    find(web.url.replace("//", "//user:pass@") + "/old?token=s3cret", tracer=tracer)
    first, second, third = finished()
    host, port = web.url.removeprefix("http://").split(":")
    assert {(span.name, span.kind) for span in finished()} == {("GET", SpanKind.CLIENT)}
    assert dict(first.attributes) == {
        "http.request.method": "GET",
        "url.full": f"http://REDACTED:REDACTED@{host}:{port}/old?token=REDACTED",
        "server.address": host,
        "server.port": int(port),
        "http.response.status_code": 302,
    }
    assert first.status.status_code is StatusCode.UNSET
    assert second.attributes["http.request.resend_count"] == 1
    assert (third.attributes["error.type"], third.status.status_code) == ("404", StatusCode.ERROR)


@pytest.mark.parametrize(
    ("url", "settings", "error_type"),
    [
        ("http://127.0.0.1:1/", ImageSettings(), "refused_address"),
        ("http://127.0.0.1:1/", SETTINGS, "connect"),
    ],
)
def test_a_request_without_an_answer_names_its_error_on_the_span(
    url: str, settings: ImageSettings, error_type: str, find: Find, spans: Any
) -> None:
    tracer, finished = spans
    try:
        find(url, settings, tracer=tracer)
    except TransientError as error:
        assert error.kind == error_type  # noqa: PT017  the other case does not raise
    (span,) = finished()
    assert span.attributes["error.type"] == error_type
    assert not span.events


class Told:
    """A source that says what it is told to."""

    def __init__(self, name: str, answer: SearchOutcome | TransientKind) -> None:
        self.name = name
        self.answer = answer

    def find(self, product: Product) -> SearchResult:
        assert product.draft_id
        if isinstance(self.answer, TransientKind):
            raise TransientError("told to", kind=self.answer)
        found = (Candidate("http://h/", self.name, 1, 1, "image/png"),) if self.answer == "found" else ()
        return SearchResult(found, self.answer, self.name)


def test_the_first_source_that_finds_something_wins_and_a_passing_failure_is_not_forgotten() -> None:
    product = Product("d", "s", "n", None)
    empty, busy = Told("empty", SearchOutcome.NOTHING_FOUND), Told("busy", TransientKind.HTTP_429)
    full = Told("full", SearchOutcome.FOUND)
    assert search(product, [empty, busy, full, Told("late", SearchOutcome.FOUND)]).source == "full"
    assert search(product, [Told("first", SearchOutcome.NO_URL), empty]).outcome == "nothing_found"
    with pytest.raises(TransientError, match="told to"):
        search(product, [busy, empty])


def test_settings_come_from_the_environment_and_a_bad_one_is_named() -> None:
    environ = {
        "TOOLKIT_IMAGES_ALLOW_PRIVATE": "yes",
        "TOOLKIT_IMAGES_DEADLINE": "7.5",
        "TOOLKIT_IMAGES_PER_DRAFT": "2",
        "TOOLKIT_IMAGES_TEST_PAGE": "https://Shop.example/p/1",
    }
    assert ImageSettings.from_settings(Settings.from_env(environ)) == ImageSettings(
        allow_private=True, search_deadline=7.5, images_per_draft=2, test_page="https://shop.example/p/1"
    )
    assert ImageSettings.from_settings(Settings.from_env({})) == ImageSettings()
    for variable, text in [
        ("MIN_SIDE", "-1"),
        ("DEADLINE", "nan"),
        ("ALLOW_PRIVATE", "perhaps"),
        ("PER_DRAFT", "x"),
        ("TEST_PAGE", "freshfetch-sample:3"),
    ]:
        with pytest.raises(SettingError, match=variable):
            ImageSettings.from_settings(Settings.from_env({f"TOOLKIT_IMAGES_{variable}": text}))
