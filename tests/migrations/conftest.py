"""The engines that the migrations are run against."""

from __future__ import annotations

from tests.engines.fixtures import database as database
from tests.engines.fixtures import postgres as postgres
