"""The entry point of the command `helios`: it says what to install when the command line is not."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line."""
    try:
        from helios_core.cli import cli
    except ImportError as error:
        sys.exit(
            f"helios: the command line needs more than the client ({error}): pip install 'helios-observability[all]'"
        )
    except KeyboardInterrupt:
        sys.exit(130)
    cli()
