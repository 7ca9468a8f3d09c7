"""How a command says that it failed."""

from __future__ import annotations

import sys
from typing import NoReturn

import click


def fail(message: str, *, code: int = 1) -> NoReturn:
    """Prints one sentence to stderr, and ends."""
    click.echo(f"helios: {message}", err=True)
    sys.exit(code)
