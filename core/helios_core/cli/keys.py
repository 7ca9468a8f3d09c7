"""The commands `helios keys`."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import msgspec

from helios_core import config
from helios_core.cli.fail import fail
from helios_core.errors import HeliosError
from helios_core.keyfile import ApiKey, KeyFile
from helios_core.keys import Scope, hash_of, new_key
from helios_core.settings import Settings

_CONFIG = click.option("--config", type=click.Path(path_type=Path), help="The server's configuration.")
_DATA_DIR = click.option(
    "--data-dir", envvar="HELIOS_DATA_DIR", help="The server's data directory.  [default: helios-data]"
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")


@click.group("keys")
def keys_command() -> None:
    """API keys: who may send, read, or look at metrics.

    Only their hashes are kept, in `api-keys.json` of the data directory or where `api_keys_file` of the
    configuration says. A running server sees a change within seconds. To change a key without a pause:
    create another, give it to its users, revoke the old one.

    \b
    Try it:
      helios keys create --name shop
      helios keys create --name prometheus --scope metrics --days 365
      helios keys list
    """


@keys_command.command("create")
@_CONFIG
@_DATA_DIR
@click.option("--name", default="", help="Whose it is.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    default=(Scope.INGEST.value,),
    show_default=True,
    help="What it is for; may be given again. admin may do everything.",
)
@click.option("--days", type=click.IntRange(1, 36_500), help="How long it is valid; without it, until it is revoked.")
@click.option("--print-only", is_flag=True, help="Keep it nowhere: print the entry for `api_keys` of a configuration.")
@_JSON
def create_command(
    config: Path | None, data_dir: str | None, name: str, scopes: tuple[str, ...], days: int | None,
    print_only: bool, as_json: bool,
) -> None:  # fmt: skip
    """Make a key. It is shown this once."""
    if not name.isprintable():
        fail(f"--name {name!r} has characters that cannot be printed")
    key = new_key()
    expires = None if days is None else datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    entry = ApiKey(hash_of(key), tuple(map(Scope, dict.fromkeys(scopes))), name=name, expires=expires)
    try:
        file = _file(config, data_dir)
        entry = entry if print_only else file.add(entry)
    except HeliosError as error:
        fail(str(error))
    if as_json:
        click.echo(msgspec.json.encode({"key": key, **msgspec.to_builtins(entry)}))
    elif print_only:
        click.echo(f"# the key, for its user (it is shown this once):\n#   {key}")
        click.echo(f"api_keys:\n  - sha256: {entry.sha256}\n    scopes: [{', '.join(entry.scopes)}]")
        if name:
            click.echo(f"    name: {msgspec.json.encode(name).decode()}")
        if expires is not None:
            click.echo(f"    expires: {expires:%Y-%m-%dT%H:%M:%SZ}")
    else:
        click.echo(key)
        kinds, place = ", ".join(entry.scopes), file.path.absolute()
        click.echo(f"This is key {entry.id} of {place}, for {kinds}. It is shown this once.", err=True)


@keys_command.command("list")
@_CONFIG
@_DATA_DIR
@_JSON
def list_command(config: Path | None, data_dir: str | None, as_json: bool) -> None:
    """Show the keys that there are, without what they are."""
    try:
        file = _file(config, data_dir)
        keys = file.read()
    except HeliosError as error:
        fail(str(error))
    if as_json:
        click.echo(msgspec.json.encode(keys))
        return
    if not keys:
        click.echo(f"no keys in {file.path}: `helios keys create` makes one")
        return
    now = datetime.now(UTC)
    click.echo(f"{'id':<10}{'scopes':<24}{'created':<18}{'expires':<18}name")
    for key in keys:
        expires = _day(key.expires) + (" (over)" if key.expires is not None and key.expires <= now else "")
        click.echo(f"{key.id:<10}{','.join(key.scopes):<24}{_day(key.created):<18}{expires:<18}{key.name}")


@keys_command.command("revoke")
@_CONFIG
@_DATA_DIR
@click.argument("id_", metavar="ID")
def revoke_command(config: Path | None, data_dir: str | None, id_: str) -> None:
    """Let a key in no more. Running servers know within seconds."""
    try:
        key = _file(config, data_dir).revoke(id_)
    except HeliosError as error:
        fail(str(error))
    click.echo(f"revoked {key.id}{f' ({key.name})' if key.name else ''}")


def _file(path: Path | None, data_dir: str | None) -> KeyFile:
    settings = config.load(path, Settings, os.environ) if path is not None else Settings()
    return config.override(settings, {} if data_dir is None else {"data_dir": data_dir}).key_file()


def _day(time: datetime | None) -> str:
    return "-" if time is None else f"{time:%Y-%m-%d}"
