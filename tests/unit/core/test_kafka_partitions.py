"""Where records stand on Kafka: as Kafka's own clients place them, so that readers of a key find all of it."""

from __future__ import annotations

import pytest

from helios_core.bus.kafka.bus import partition_of

# What Kafka's Java client makes of these keys: org.apache.kafka.common.utils.UtilsTest, `testMurmur2`.
MURMUR2 = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}


@pytest.mark.parametrize("key", MURMUR2)
@pytest.mark.parametrize("n_partitions", [1, 3, 10])
def test_a_key_stands_where_kafkas_own_clients_have_it(key: str, n_partitions: int) -> None:
    assert partition_of(key.encode(), range(n_partitions)) == (MURMUR2[key] & 0x7FFFFFFF) % n_partitions
