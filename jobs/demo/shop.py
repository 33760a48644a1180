"""A small real web shop on loopback, for the demo, the tests and the drills: pages, images, and faults on demand.

    with Shop() as shop:
        shop.purchase_order("PO-1001", "demo-merchant")        # CSV text for `toolkit import`
        shop.fail("500"); shop.heal()                          # 500, hang, slow or refuse; for one sku or for all
        with shop.hold("MUG-01") as held:                      # the next request for that page stops at a gate
            held.reached.wait(5); …; held.release()

Listens on 127.0.0.1 alone, any free port by default. Images are drawn by Pillow from the product's name, so that every
shop serves the same bytes. Known weakness: a thread a connection, without limit: not for the open internet.
"""

from __future__ import annotations

import csv
import gzip
import io
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, Self, get_args
from urllib.parse import quote, unquote

from PIL import Image, ImageDraw

from jobs.demo.pages import not_found_page, product_page
from jobs.demo.products import CATALOGUE, ShopProduct

Fault = Literal["500", "hang", "slow", "refuse"]

SIZE = (640, 480)
"""Pixels of every image."""

DRIP = 0.2
"""Seconds between two bytes of a slow answer."""

_FORMATS = {"jpg": ("JPEG", "image/jpeg"), "png": ("PNG", "image/png"), "webp": ("WEBP", "image/webp")}


@dataclass(slots=True)
class Held:
    """A gate in front of one product page. `reached` is set when a request stands before it."""

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Let it pass, and all that follow."""
        self.opened.set()


class Shop:
    """The shop; `url` is its root. Everything may be called from any thread while it serves."""

    def __init__(self, products: Sequence[ShopProduct] = CATALOGUE, port: int = 0) -> None:
        self.products: Mapping[str, ShopProduct] = {product.sku: product for product in products}
        self._faults: dict[str | None, Fault] = {}
        self._held: dict[str, Held] = {}
        self._healed = threading.Event()
        self._lock = threading.Lock()
        self._asked: list[str] = []
        self._server = _Server(self, port)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="shop", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.heal()
        for held in list(self._held.values()):
            held.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Where the shop is, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def product_url(self, sku: str) -> str:
        """The page of a product, existing or not."""
        return f"{self.url}/products/{quote(sku)}"

    @property
    def requests(self) -> list[str]:
        """The paths that were asked for so far, in order."""
        with self._lock:
            return list(self._asked)

    def fail(self, kind: Fault, sku: str | None = None) -> None:
        """From now on that page and its images (every page and image without a sku) answer with the fault."""
        if kind not in get_args(Fault):
            raise ValueError(f"no fault {kind!r}: {', '.join(get_args(Fault))}")
        with self._lock:
            self._healed.clear()
            self._faults[sku] = kind

    def heal(self) -> None:
        """No more faults; what hangs is let go."""
        with self._lock:
            self._faults.clear()
            self._healed.set()

    @contextmanager
    def hold(self, sku: str) -> Iterator[Held]:
        """Requests for that product's page wait until `release()`, at the latest until the end of the context."""
        held = Held()
        with self._lock:
            self._held[sku] = held
        try:
            yield held
        finally:
            with self._lock:
                del self._held[sku]
            held.release()

    def purchase_order(self, number: str, merchant: str) -> str:
        """A purchase order over every product, as CSV for `toolkit import`; `merchant` is the merchant's id."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(
            ["order_number", "merchant", "sku", "product_name", "quantity", "unit_cost", "product_url"]
        )
        for product in self.products.values():
            rows.writerow(
                [number, merchant, product.sku, product.name, product.quantity, product.unit_cost,
                 self.product_url(product.sku)]
            )  # fmt: skip
        return text.getvalue()

    def note(self, path: str) -> None:
        """A request came in."""
        with self._lock:
            self._asked.append(path)

    def gate(self, sku: str) -> None:
        """Stand before the product's gate, if it has one."""
        with self._lock:
            held = self._held.get(sku)
        if held is not None:
            held.reached.set()
            held.opened.wait()

    def fault(self, sku: str) -> tuple[Fault | None, threading.Event]:
        """The fault in force for a product, and the event that ends it."""
        with self._lock:
            return self._faults.get(sku) or self._faults.get(None), self._healed


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    """Clients keep connections alive; waiting for them would hold up the end of the shop."""
    request_queue_size = 128

    def __init__(self, shop: Shop, port: int) -> None:
        self.shop = shop
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up in mid-answer is no error of the shop's; nothing is printed."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        shop = self.server.shop
        shop.note(self.path)
        folder, _, rest = unquote(self.path.partition("?")[0]).lstrip("/").partition("/")
        product = shop.products.get(rest if folder == "products" else rest.rpartition("-")[0])
        sku = product.sku if product else rest
        if folder == "products":
            shop.gate(sku)
        fault, healed = shop.fault(sku)
        if fault in {"refuse", "hang"}:
            if fault == "hang":
                healed.wait()
            self.close_connection = True
            return
        if fault == "500":
            self._answer(500, "text/plain; charset=utf-8", b"the shop is on fire\n")
            return
        status, content_type, body = self._find(folder, rest, product)
        self._answer(status, content_type, body, slow=healed if fault == "slow" else None)

    def _find(self, folder: str, rest: str, product: ShopProduct | None) -> tuple[int, str, bytes]:
        if product is not None and folder == "products" and product.shape != "missing":
            return 200, "text/html; charset=utf-8", product_page(product, self.server.shop.url).encode()
        if product is not None and folder == "images":
            stem, _, ending = rest.rpartition(".")
            number = stem.rpartition("-")[2]
            if ending == product.ending and number.isdecimal() and 1 <= int(number) <= product.images:
                return 200, _FORMATS[ending][1], draw(product.name, int(number), ending)
        return 404, "text/html; charset=utf-8", not_found_page().encode()

    def _answer(
        self, status: int, content_type: str, body: bytes, *, slow: threading.Event | None = None
    ) -> None:
        packed = status == 200 and content_type.startswith("text/html") and self._takes_gzip()
        if packed:
            body = gzip.compress(body, mtime=0)
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if slow is None:
            self.wfile.write(body)
            return
        for place in range(len(body)):
            self.wfile.write(body[place : place + 1])
            self.wfile.flush()
            slow.wait(DRIP)

    def _takes_gzip(self) -> bool:
        return "gzip" in (self.headers.get("Accept-Encoding") or "")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the parameter's name is inherited
        """Quiet: the demo's screen belongs to the job."""


@lru_cache(maxsize=256)
def draw(name: str, number: int, ending: str) -> bytes:
    """A picture of the product: its name on a tile, colours by its name and the picture's number. Always the same."""
    seed = zlib.crc32(f"{name}/{number}".encode())
    ground = (96 + seed % 112, 96 + (seed >> 8) % 112, 96 + (seed >> 16) % 112)
    tile = (ground[0] - 48, ground[1] - 48, ground[2] - 48)
    image = Image.new("RGB", SIZE, ground)
    pen = ImageDraw.Draw(image)
    inset = 40 + 20 * (number % 4)
    pen.rounded_rectangle((inset, inset, SIZE[0] - inset, SIZE[1] - inset), radius=36, fill=tile)
    centre = SIZE[0] / 2
    pen.text((centre, 220), name, font_size=36, anchor="mm", fill="white")
    pen.text((centre, 280), f"view {number}", font_size=22, anchor="mm", fill=ground)
    data = io.BytesIO()
    image.save(data, _FORMATS[ending][0])
    return data.getvalue()
