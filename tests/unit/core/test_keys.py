"""API keys: what they may do and until when, and the file that `helios keys` keeps them in."""

from __future__ import annotations

import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from helios_core.cli import cli
from helios_core.errors import ConfigError
from helios_core.keyfile import ApiKey, KeyFile
from helios_core.keys import Fault, Grant, Grants, Keys, Scope, hash_of
from helios_core.settings import Settings

INGEST = Grant(frozenset({Scope.INGEST}))


def asked(keys: Keys, key: str = "", scope: Scope = Scope.INGEST) -> Fault | None:
    return keys.fault(f"Bearer {key}" if key else "", "", scope)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The source is asked each time."""
    monkeypatch.setattr("helios_core.keys._LOOK_S", 0.0)


def test_a_key_expires() -> None:
    now_s = 1_000.0
    keys = Keys({hash_of("k"): Grant(frozenset({Scope.INGEST}), 1_010.0)}, now_s=lambda: now_s)
    assert asked(keys, "k") is None
    now_s = 1_010.0
    fault = asked(keys, "k")
    assert fault == Fault("this API key has expired", known=False)


@pytest.mark.usefixtures("at_once")
def test_open_until_there_is_a_key_and_never_again() -> None:
    there: Grants | None = None
    keys = Keys(None, lambda: there)
    assert keys.are_open
    assert asked(keys) is None
    there = {hash_of("k"): INGEST}
    assert not keys.are_open
    assert asked(keys) is not None
    assert asked(keys, "k") is None
    there = {}
    assert not keys.are_open
    assert asked(keys, "k") is not None
    assert asked(keys, keys.own()) is None


def test_the_source_is_not_asked_for_every_request() -> None:
    calls = []
    keys = Keys({hash_of("k"): INGEST}, lambda: calls.append(1) or {})  # type: ignore[func-returns-value]
    for _ in range(1_000):
        assert asked(keys, "k") is None
    assert len(calls) <= 2


# ---- the file


def test_what_is_put_in_is_there_and_what_is_revoked_is_not(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "new" / "keys.json")
    assert file.read() == ()
    expires = datetime(2027, 1, 31, tzinfo=UTC)
    one = file.add(ApiKey(hash_of("a"), name="shop: a #1"))
    other = file.add(ApiKey(hash_of("b"), (Scope.READ, Scope.METRICS), expires=expires))
    assert file.read() == (one, other)
    assert one.created is not None
    assert file.grants() == {
        hash_of("a"): INGEST,
        hash_of("b"): Grant(frozenset({Scope.READ, Scope.METRICS}), expires.timestamp()),
    }
    assert file.revoke(one.id) == one
    assert [*file.grants()] == [hash_of("b")]
    with pytest.raises(ConfigError, match="helios keys list"):
        file.revoke(one.id)


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    file.add(ApiKey(hash_of("a")))
    assert file.path.stat().st_mode & 0o077 == 0


def test_commands_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    threads = [
        threading.Thread(target=lambda i=i: KeyFile(path).add(ApiKey(hash_of(str(i)))))  # type: ignore[misc]
        for i in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys = KeyFile(path).read()
    assert {key.sha256 for key in keys} == {hash_of(str(i)) for i in range(20)}
    assert len({key.id for key in keys}) == 20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"api_keys": [{"sha256": "abc"}]}', "no SHA-256"),
        ('{"api_keys": [{"sha265": "x"}]}', "did you mean 'sha256'?"),
        ('{"api_keys": [', "no JSON"),
        ("", "no JSON"),
        ("[]", "must be"),
        (f'{{"api_keys": [{{"sha256": "{hash_of("a")}", "scopes": ["write"]}}]}}', "write"),
        (f'{{"api_keys": [{{"sha256": "{hash_of("a")}", "expires": "2027-01-31T00:00:00"}}]}}', "time zone"),
        (f'{{"api_keys": [{{"sha256": "{hash_of("a")}", "expires": "2027-02-30T00:00:00Z"}}]}}', "RFC3339"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path: Path, text: str, said: str) -> None:
    """At the start it is refused; a server that runs goes on with what it knew."""
    file = KeyFile(tmp_path / "api-keys.json")
    file.add(ApiKey(hash_of("good")))
    known = file.grants()
    file.path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        Settings(data_dir=str(tmp_path)).keys()
    assert file.grants() == known == {hash_of("good"): INGEST}
    file.path.write_text(f'{{"api_keys": [{{"sha256": "{hash_of("mended")}"}}]}}')
    assert [*file.grants()] == [hash_of("mended")]


@pytest.mark.usefixtures("at_once")
def test_a_file_that_is_taken_away_lets_nobody_in(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "api-keys.json")
    file.add(ApiKey(hash_of("good")))
    keys = Settings(data_dir=str(tmp_path)).keys()
    assert asked(keys, "good") is None
    file.path.unlink()
    assert asked(keys, "good") is not None
    assert not keys.are_open


def test_when_all_keys_are_revoked_a_start_opens_nothing(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "api-keys.json")
    file.revoke(file.add(ApiKey(hash_of("a"))).id)
    assert file.read() == ()
    keys = Settings(data_dir=str(tmp_path), http="0.0.0.0:1").keys()
    assert not keys.are_open
    assert asked(keys) is not None


@pytest.mark.usefixtures("at_once")
def test_a_first_file_that_does_not_fit_closes_an_open_server(tmp_path: Path) -> None:
    keys = Settings(data_dir=str(tmp_path)).keys()
    assert keys.are_open
    (tmp_path / "api-keys.json").write_text("{")
    assert not keys.are_open


def test_a_file_that_could_not_be_read_is_tried_again(tmp_path: Path) -> None:
    """Also when nothing but its rights was mended: as here, where a folder gives way to a file of the same times."""
    file = KeyFile(tmp_path / "api-keys.json")
    file.path.mkdir()
    with capture_logs() as said:
        for _ in range(3):
            assert file.grants() == {}
    assert [one["event"] for one in said] == ["api_keys_not_read"]
    file.path.rmdir()
    file.add(ApiKey(hash_of("a")))
    assert file.grants() == {hash_of("a"): INGEST}


def test_a_change_of_rights_is_seen(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "api-keys.json")
    file.add(ApiKey(hash_of("a")))
    before = file._stat()
    file.path.chmod(0o640)
    assert file._stat() != before
    file.add(ApiKey(hash_of("b")))
    assert file.path.stat().st_mode & 0o777 == 0o640  # who could read it still can


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away: run it as root")
def test_what_root_writes_belongs_to_whose_it_was(tmp_path: Path) -> None:
    os.chown(tmp_path, 65_534, 65_534)
    file = KeyFile(tmp_path / "api-keys.json")
    for key in ("a", "b"):
        file.add(ApiKey(hash_of(key)))
        found = file.path.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (65_534, 65_534, 0o600)


def test_a_name_is_what_it_is(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "api-keys.json")
    file.add(ApiKey(hash_of("a"), name="${TEAM}"))
    assert [key.name for key in file.read()] == ["${TEAM}"]
    for name in ("a\nb", "\x1b[2J", "\udcff"):
        done = run(tmp_path, "create", "--name", name)
        assert (done.exit_code, "cannot be printed" in done.stderr) == (1, True)
    assert len(file.read()) == 1


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "api-keys.json").mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        Settings(data_dir=str(tmp_path)).keys()


def test_keys_of_the_configuration_and_of_the_file_count_both(tmp_path: Path) -> None:
    KeyFile(tmp_path / "k.json").add(ApiKey(hash_of("file"), (Scope.READ,)))
    made = Settings(api_keys_file=str(tmp_path / "k.json"), api_keys=(ApiKey(hash_of("fixed")),), http="0.0.0.0:1")
    keys = made.keys()
    assert asked(keys, "fixed") is None
    assert asked(keys, "file", Scope.READ) is None
    assert asked(keys, "file") == Fault("this API key is not for ingest", known=True)


# ---- the commands


def run(tmp_path: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, ["keys", *words, "--data-dir", str(tmp_path)])


def made(tmp_path: Path, *words: str) -> dict[str, Any]:
    done = run(tmp_path, "create", "--json", *words)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_key_is_made_listed_and_revoked(tmp_path: Path) -> None:
    key = made(tmp_path, "--name", "shop", "--scope", "read", "--scope", "metrics", "--days", "2")
    assert (key["name"], key["scopes"], hash_of(key["key"])) == ("shop", ["read", "metrics"], key["sha256"])
    left = datetime.fromisoformat(key["expires"]) - datetime.now(UTC)
    assert timedelta(days=1, hours=23) < left < timedelta(days=2, hours=1)
    listed = run(tmp_path, "list")
    assert key["id"] in listed.stdout
    assert "read,metrics" in listed.stdout
    assert key["key"] not in listed.stdout + (tmp_path / "api-keys.json").read_text()
    assert [one["id"] for one in json.loads(run(tmp_path, "list", "--json").stdout)] == [key["id"]]
    assert run(tmp_path, "revoke", key["id"]).stdout == f"revoked {key['id']} (shop)\n"
    assert "no keys in" in run(tmp_path, "list").stdout
    again = run(tmp_path, "revoke", key["id"])
    assert (again.exit_code, "has no key" in again.stderr) == (1, True)


def test_only_the_key_is_printed_where_a_script_reads_it(tmp_path: Path) -> None:
    done = run(tmp_path, "create")
    assert hash_of(done.stdout.strip()) in (tmp_path / "api-keys.json").read_text()
    assert "shown this once" in done.stderr


def test_an_entry_for_a_configuration_is_kept_nowhere(tmp_path: Path) -> None:
    done = run(tmp_path, "create", "--print-only", "--scope", "read", "--days", "1")
    (tmp_path / "server.yaml").write_text(done.stdout)
    from helios_core import config

    settings = config.load(tmp_path / "server.yaml", Settings, {})
    assert settings.api_keys[0].scopes == (Scope.READ,)
    assert settings.api_keys[0].expires is not None
    assert not (tmp_path / "api-keys.json").exists()


def test_one_that_has_expired_is_shown_as_such(tmp_path: Path) -> None:
    KeyFile(tmp_path / "api-keys.json").add(ApiKey(hash_of("a"), expires=datetime(2020, 1, 1, tzinfo=UTC)))
    assert "2020-01-01 (over)" in run(tmp_path, "list").stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything: run it as another user")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = run(tmp_path, "create")
    assert (done.exit_code, "cannot be written" in done.stderr) == (1, True)


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(tmp_path / "file", "create")
    assert (done.exit_code, "cannot be" in done.stderr) == (1, True)


def test_a_change_is_seen_though_the_file_keeps_its_size(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "api-keys.json")
    one = file.add(ApiKey(hash_of("a")))
    assert [*file.grants()] == [hash_of("a")]
    time.sleep(0.01)
    file.revoke(one.id)
    file.add(ApiKey(hash_of("b")))
    assert [*file.grants()] == [hash_of("b")]
