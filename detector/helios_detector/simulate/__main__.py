"""Runs the simulator as `python -m helios_detector.simulate`."""

from __future__ import annotations

from helios_detector.simulate.cli import simulate

if __name__ == "__main__":
    simulate(prog_name="python -m helios_detector.simulate")
