"""Configuration: variables are filled in, unknown keys are named with the nearest known one, secrets do not show."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from helios_core.config import Secret, load, parse
from helios_core.errors import ConfigError


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    endpoint: str = "http://localhost:4317"
    batch_size: int = 100


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    enabled: bool = True


class Outer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    helios: Inner = Inner()
    sources: tuple[Item, ...] = ()


def test_values_and_defaults() -> None:
    made = parse("helios: {batch_size: 5}\nsources: [{type: file}]", Outer, {})
    assert made == Outer(Inner(batch_size=5), (Item("file"),))
    assert parse("", Outer, {}) == Outer()


def test_variables_are_filled_in_with_their_defaults() -> None:
    text = "helios: {endpoint: '${SCHEME:-http}://${HOST}:1', batch_size: '${SIZE:-7}'}"
    assert parse(text, Outer, {"HOST": "h"}) == Outer(Inner("http://h:1", 7))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("helios: {endpont: x}", "unknown key 'endpont' in helios; did you mean 'endpoint'?"),
        ("sorces: []", "unknown key 'sorces'; did you mean 'sources'?"),
        ("zzz: 1", "known keys: helios, sources"),
        ("sources: [{type: file, enabld: true}]", "did you mean 'enabled'?"),
        ("helios: {batch_size: many}", "batch_size"),
        ("helios: {endpoint: '${NOWHERE}'}", "NOWHERE is not set"),
        ("[1, 2]", "must be a mapping"),
        ("a: [", "is not YAML"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?").replace("[", r"\[")):
        parse(text, Outer, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml cannot be read"):
        load(tmp_path / "nothing.yaml", Outer, {})


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]}"
    assert secret.reveal() == "hunter2"
