"""`python -m tests.chaos`: a run from the command line, with its account."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import Account, Plan, run


async def _until_told(plan: Plan, folder: Path) -> Account:
    """A run, which ends everything that it has started also on SIGTERM."""
    task = asyncio.ensure_future(run(plan, folder))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=Plan.count, help="how many strike (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=Plan.seed, help="which, where and when (default: %(default)s)")
    parser.add_argument("--gap", type=float, default=Plan.gap_s, help="mean seconds between two (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=Plan.per_second, help="events/s of a service (%(default)s)")
    parser.add_argument("--keep", action="store_true", help="leave the folder with the logs of all parts")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="helios-chaos-"))
    folder.chmod(0o755)  # the database has a user of its own
    try:
        account = asyncio.run(_until_told(Plan(given.faults, given.seed, given.gap, given.rate), folder))
    except asyncio.CancelledError:
        return 130
    sys.stdout.write("\n".join(account.lines()) + "\n")
    if given.keep or account.wrong:
        sys.stdout.write(f"logs: {folder}\n")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if account.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
