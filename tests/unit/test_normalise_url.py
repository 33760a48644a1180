"""One address, one spelling: image keys are derived from it, so these answers are for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.images.search.urls import MAX_URL, normalise_url, redacted, resolved

SPELLINGS = [
    ("HTTP://Shop.Example/A.jpg", "http://shop.example/A.jpg"),
    ("https://shop.example", "https://shop.example/"),
    ("http://shop.example:80/a", "http://shop.example/a"),
    ("https://shop.example:443/a", "https://shop.example/a"),
    ("https://shop.example:/a", "https://shop.example/a"),
    ("http://shop.example:443/a", "http://shop.example:443/a"),
    ("http://shop.example/a#zoom", "http://shop.example/a"),
    ("http://shop.example/%7euser/%c3%a9%2f", "http://shop.example/~user/%C3%A9%2F"),
    ("http://shop.example/é b.jpg", "http://shop.example/%C3%A9%20b.jpg"),
    ("http://shop.example/100%.jpg", "http://shop.example/100%25.jpg"),
    ("http://shop.example/a/./b/../c", "http://shop.example/a/c"),
    ("http://shop.example/../../a/..", "http://shop.example/"),
    ("http://shop.example/i?b=2&a=1&b=1", "http://shop.example/i?b=2&a=1&b=1"),
    ("http://shop.example/i?q=a b&r=%2b+", "http://shop.example/i?q=a%20b&r=%2B+"),
    ("http://shop.example/i?u=http://x/?y", "http://shop.example/i?u=http://x/?y"),
    ("  http://shop.example/a\n.jpg ", "http://shop.example/a.jpg"),
    ("http:\\\\shop.example\\a.jpg", "http://shop.example/a.jpg"),
    ("http://good.example\\@evil.example/", "http://good.example/@evil.example/"),
    ("http://bücher.example/x", "http://xn--bcher-kva.example/x"),
    ("http://straße.example/", "http://xn--strae-oqa.example/"),
    ("http://[2001:DB8:0::1]:8080/", "http://[2001:db8::1]:8080/"),
    ("http://User:p%40ss@shop.example/", "http://User:p%40ss@shop.example/"),
]


@pytest.mark.parametrize(("given_url", "spelled"), SPELLINGS)
def test_spellings_of_one_address_become_one(given_url: str, spelled: str) -> None:
    assert normalise_url(given_url) == spelled


@pytest.mark.parametrize(
    "text",
    [
        "", "/a.jpg", "a.jpg", "ftp://shop.example/a", "data:image/png;base64,AAAA", "javascript:alert(1)",
        "http://", "http:///a", "http://shop example/", "http://shop.example:99999/", "http://shop.example:x/",
        "http://[::1/", "http://[v1.x]/", "http://shop<.example/", "http://shop.example/" + "a" * MAX_URL,
    ],
)  # fmt: skip
def test_what_is_no_web_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  ValueError is the whole contract
        normalise_url(text)


_pieces = st.lists(
    st.sampled_from(
        [
            "/",
            "%",
            "%7e",
            "%2F",
            "%zz",
            "..",
            ".",
            "?",
            "#",
            "&",
            "=",
            "é",
            " ",
            "a",
            "\\",
            ":",
            "@",
            "😀",
            "+",
            ";",
        ]
    )
    | st.text(max_size=3),
    max_size=12,
).map("".join)


@given(
    st.sampled_from(["http://", "HTTPS://"]),
    st.sampled_from(["h", "H.example:80", "bücher.de", "u:p@h:8080", "[::1]"]),
    _pieces,
)
def test_normalising_twice_changes_nothing(scheme: str, host: str, rest: str) -> None:
    once = normalise_url(f"{scheme}{host}/{rest}")
    assert normalise_url(once) == once
    assert once.isascii()
    assert "#" not in once


@given(st.text(max_size=60))
def test_any_text_is_either_refused_or_becomes_stable(text: str) -> None:
    try:
        once = normalise_url(text)
    except ValueError:
        return
    assert normalise_url(once) == once


@given(_pieces)
def test_any_reference_on_a_page_resolves_or_is_dropped(reference: str) -> None:
    found = resolved("https://shop.example/products/mug", reference)
    assert found is None or found.startswith(("http://", "https://"))


def test_a_span_shows_no_credentials_and_no_query_values() -> None:
    assert (
        redacted("https://u:p@h:8443/a?token=s3cret&b=&c")
        == "https://REDACTED:REDACTED@h:8443/a?token=REDACTED&b=REDACTED&c"
    )
    assert redacted("https://h/a") == "https://h/a"
