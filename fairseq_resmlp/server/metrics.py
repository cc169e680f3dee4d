"""Metrics for Prometheus. Each application has its own registry."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters, histograms and gauges of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "http_requests", "Requests by path and status", ["path", "status"], registry=self.registry
        )
        self.latency = Histogram(
            "http_request_seconds",
            "Time from the first byte of a request to the last byte of its answer",
            ["path"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.characters = Counter(
            "translated_characters", "Characters of accepted texts", ["model"], registry=self.registry
        )
        self.batch_sizes = Histogram(
            "batch_sentences",
            "Sentences that were translated together",
            ["model"],
            buckets=BATCH_BUCKETS,
            registry=self.registry,
        )
        self._waiting = Gauge("waiting_requests", "Requests in the queue", ["model"], registry=self.registry)

    def watch_queue(self, model: str, waiting: Callable[[], int]) -> None:
        """Report the length of a queue. `waiting` returns it."""
        self._waiting.labels(model).set_function(waiting)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
