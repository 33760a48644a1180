"""What an image really is, from its first bytes: neither Content-Type nor the name's ending is believed.

Reads at most `probe_bytes` (64 KiB) and stops as soon as type and size are known; sizes come from headers (imagesize), so
no pixel is ever decoded and a decompression bomb stays what it is, a number. Known weakness: a file that is cut off after
its header counts as whole; a header longer than the limit (embedded colour profiles) gives a candidate of unknown size.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import imagesize  # type: ignore[import-untyped]

from jobs.images.search.client import WebClient, body
from jobs.images.search.protocol import Candidate, Unusable
from jobs.images.settings import ImageSettings


@dataclass(frozen=True, slots=True)
class Measured:
    """Type and size (pixels, as displayed); the size is None while the bytes do not reach it."""

    mime: str
    size: tuple[int, int] | None


def image_type(data: bytes) -> str | None:
    """The type that the first 12 bytes prove, of those that browsers show; None for anything else. Pure."""
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:12] in {b"ftypavif", b"ftypavis"}:
        return "image/avif"
    return None


def measure(data: bytes) -> Measured | None:
    """What the beginning of a file tells; None when it is no image. Pure."""
    mime = image_type(data)
    if mime is None:
        return None
    width, height = imagesize.get(io.BytesIO(data))
    return Measured(mime, (width, height) if width > 0 and height > 0 else None)


def fits(size: tuple[int, int], settings: ImageSettings) -> bool:
    """Neither an icon nor a bomb. Pure."""
    return min(size) >= settings.min_side and size[0] * size[1] <= settings.max_pixels


def probe(web: WebClient, url: str, source: str, settings: ImageSettings) -> Candidate | None:
    """The image at `url` as a candidate, or None when it cannot be used (gone, no image, too small, too large).

    Raises TransientError when another attempt may tell.
    """
    headers = {
        "Accept": "image/avif,image/webp,image/png,image/jpeg,image/gif",
        "Accept-Encoding": "identity",
        "Range": f"bytes=0-{settings.probe_bytes - 1}",
    }
    data = b""
    measured: Measured | None = None
    whole = True
    try:
        with web.within(settings.image_deadline), web.get(url, headers) as response:
            for piece in body(response):
                data += piece
                measured = measure(data)
                if len(data) >= 12 and (measured is None or measured.size is not None):
                    break
                if len(data) >= settings.probe_bytes:
                    whole = False
                    break
    except Unusable:
        return None
    if measured is None:
        return None
    if measured.size is None:
        # The whole file without a size is a broken one; a header beyond the limit is merely long.
        return None if whole else Candidate(url, source, None, None, measured.mime)
    if not fits(measured.size, settings):
        return None
    return Candidate(url, source, *measured.size, measured.mime)
