"""Rate limits."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from fairseq_resmlp.server.limits import MINUTE, RateLimit


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_client_may_use_the_units_of_a_minute_at_once_and_then_at_the_rate(clock):
    rate = RateLimit(2, clock)
    assert [rate.acquire("a") for _ in range(3)] == [0, 0, MINUTE / 2]
    clock.now = MINUTE / 2
    assert [rate.acquire("a"), rate.acquire("a")] == [0, MINUTE / 2]
    clock.now = 2 * MINUTE
    assert [rate.acquire("a") for _ in range(3)] == [0, 0, MINUTE / 2]


def test_each_client_has_its_own_units(clock):
    rate = RateLimit(1, clock)
    assert [rate.acquire("a"), rate.acquire("b"), rate.acquire("a")] == [0, 0, MINUTE]


def test_a_refused_request_takes_nothing(clock):
    rate = RateLimit(100, clock)
    assert rate.acquire("a", 60) == 0
    assert rate.acquire("a", 60) == pytest.approx(12)
    assert rate.acquire("a", 40) == 0


def test_requests_of_any_size_use_exactly_the_units_of_a_minute(clock):
    for count in (1, 3, 7, 30, 999):
        rate = RateLimit(count, clock)
        assert sum(rate.acquire("a") == 0 for _ in range(count + 5)) == count


def test_idle_clients_are_forgotten(clock):
    rate = RateLimit(10, clock)
    for number in range(1000):
        rate.acquire(str(number))
    clock.now = 2 * MINUTE
    rate.acquire("another")
    assert len(rate) == 1


def test_threads_share_the_units():
    rate = RateLimit(50)
    with ThreadPoolExecutor(8) as pool:
        waits = list(pool.map(lambda _: rate.acquire("a"), range(400)))
    assert waits.count(0) == 50
