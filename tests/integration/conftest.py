"""The engines that the parts are run against."""

from __future__ import annotations

from tests.engines.fixtures import broker as broker
from tests.engines.fixtures import database as database
from tests.engines.fixtures import kafka as kafka
from tests.engines.fixtures import postgres as postgres
