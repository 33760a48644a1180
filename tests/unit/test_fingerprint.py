"""One fingerprint is one cause: what varies from job to job is left out of it, and what tells causes apart is not."""

from __future__ import annotations

import pytest

from toolkit.failures import fingerprint


def of(message: str) -> str:
    return fingerprint(RuntimeError(message), ())


@pytest.mark.parametrize(
    ("one", "another"),
    [
        ("https://shop.example/products/BOARD-04 answered 500", "https://shop.example/products/MUG-O answered 500"),
        ("https://shop.example/a?sku=MUG answered 500", "https://shop.example/b#top answered 500"),
        ("https://shop.example/a/b: read_timeout", "https://shop.example: read_timeout"),
        ("http://[2001:db8::1]:8080/a answered 500", "http://[2001:db8::1]:8080/b answered 500"),
        ("draft 17 of 'Mug' (id 3)", "draft 18 of 'Board' (id 4)"),
    ],
)  # fmt: skip
def test_the_same_cause_at_another_product_has_the_same_fingerprint(one: str, another: str) -> None:
    assert of(one) == of(another)


@pytest.mark.parametrize(
    ("one", "another"),
    [
        ("https://shop.example/a answered 500", "https://cdn.example/a answered 500"),
        ("https://10.0.0.1/a answered 500", "https://10.0.0.2/a answered 500"),
        ("https://shop.example/a answered 500", "https://shop.example/a: read_timeout"),
    ],
)
def test_another_host_or_another_answer_is_another_cause(one: str, another: str) -> None:
    assert of(one) != of(another)
