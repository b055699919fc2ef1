"""Tokens: their form, what they pin, and that they do not show themselves."""

from collections.abc import Callable

import pytest

from kago.security.tokens import BadToken, digest_of, mint, parse_token

CA, OTHER = b"a" * 32, b"b" * 32


def test_a_token_comes_back_as_it_was() -> None:
    token = mint(CA)
    assert parse_token(f" {token.text}\n") == token
    assert token.pins(CA) and not token.pins(OTHER)
    assert token.digest == digest_of(token.secret) and token.secret not in token.digest
    assert mint(CA).secret != token.secret and mint(CA).id != token.id


def test_it_does_not_show_itself() -> None:
    token = mint(CA)
    assert token.secret not in f"{token!r} {token}"
    with pytest.raises(BadToken) as refused:
        parse_token(token.text[:-1])
    assert token.secret[:8] not in str(refused.value)


@pytest.mark.parametrize("spoil", [
    lambda text: "", lambda text: text[:-1], lambda text: text + "a", lambda text: text.replace("kago1", "kago2"),
    lambda text: text.upper(), lambda text: text.replace(".", "-"), lambda text: text[:40] + "\x00" + text[41:],
    lambda text: "ü" * len(text),
])
def test_what_is_no_token(spoil: Callable[[str], str]) -> None:
    with pytest.raises(BadToken):
        parse_token(spoil(mint(CA).text))
