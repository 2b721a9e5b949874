"""What a server counts and measures, in the format of Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one server, in a registry of their own.

    Args:
        name, version: the model's.

    Example:
        >>> metrics = Metrics("best", "0123")
        >>> metrics.requests.labels("/predict", "200").inc()
        >>> 'vitdet_requests_total{path="/predict",status="200"} 1.0' in metrics.text().decode()
        True
    """

    def __init__(self, name: str, version: str) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter("vitdet_requests", "answers", ["path", "status"], registry=registry)
        self.seconds = Histogram(
            "vitdet_request_seconds",
            "from the head of a request to its answer",
            ["path"],
            registry=registry,
            buckets=SECONDS,
        )
        self.stages = Histogram(
            "vitdet_stage_seconds", "parts of an image's way", ["stage"], registry=registry, buckets=SECONDS
        )
        self.batches = Histogram(
            "vitdet_batch_images", "images of a batch", registry=registry, buckets=(1, 2, 4, 8, 16, 32, 64)
        )
        self.waiting = Gauge("vitdet_waiting_images", "images that wait or are being worked on", registry=registry)
        Gauge("vitdet_model_info", "the model", ["name", "version"], registry=registry).labels(name, version).set(1)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)
