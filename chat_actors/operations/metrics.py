"""What Prometheus is told, made from a snapshot and the meter when it asks. No state of its own."""

import heapq
from collections.abc import Iterator
from typing import Callable

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from chat_actors.actors.topic import TopicStatistics
from chat_actors.counters import Histogram, Meter
from chat_actors.server import Statistics

BUSIEST = 10  # topics that are named: so the number of series is bounded


class ChatCollector(Collector):
    """The metrics of one application."""

    def __init__(self, snapshot: Callable[[], Statistics], meter: Meter) -> None:
        self._snapshot = snapshot
        self._meter = meter

    def collect(self) -> Iterator[Metric]:
        seen, meter = self._snapshot(), self._meter
        topics = seen.topics
        yield _gauge("connections", "WebSocket connections.", seen.connections)
        yield _gauge("members", "Members of all topics.", sum(one.users for one in topics))
        yield _gauge("topics", "Active topics.", len(topics))
        yield _counter("messages_accepted", "Messages taken into the order of their topic.", meter.accepted)
        yield _counter("messages_delivered", "Messages, times the members they were written to.", meter.delivered)
        yield _counter(
            "messages_duplicate", "Messages known by their ref, which were not sent again.", meter.duplicates
        )
        yield _counter("messages_expired", "Messages deleted at the end of the window.", meter.expired)
        yield _counter("messages_evicted", "Messages deleted before, by the bounds of their topic.", meter.evicted)
        yield _counter("sent_bytes", "Bytes of frames written to connections.", seen.bytes_out)
        refused = CounterMetricFamily("chat_frames_refused", "Frames answered by an error.", labels=["code"])
        for error, count in meter.refused.items():
            refused.add_metric([error.value], count)
        yield refused
        closed = CounterMetricFamily("chat_closes", "Connections the server closed.", labels=["code", "cause"])
        for code, count in meter.closed.items():
            closed.add_metric([str(int(code)), code.name.lower()], count)
        yield closed
        yield _counter("slow_readers", "Readers aborted because they did not read.", meter.slow)
        mail = GaugeMetricFamily("chat_mailbox_events", "Events that wait for the actors.", labels=["actors"])
        mail.add_metric(["supervisor"], seen.mail)
        mail.add_metric(["topics"], sum(one.mail for one in topics))
        yield mail
        oldest = max((one.mail_age for one in topics), default=0.0)
        yield _gauge("mailbox_age_seconds", "The longest that mail has waited for a topic's next turn.", oldest)
        yield _histogram("turn_events", "Events that a topic took in one turn.", meter.turns)
        yield _histogram("fan_out_seconds", "From the first to the last member of a fan-out.", meter.fan_outs)
        yield _histogram("event_loop_lag_seconds", "How late the event loop was, once a second.", meter.lag)
        yield from _busiest(topics)
        slowest = GaugeMetricFamily(
            "chat_reader_waiting_bytes", "Bytes that wait for the slowest readers.", labels=["topic", "username"]
        )
        for reader in seen.slowest:
            slowest.add_metric([reader.topic, reader.username], reader.waiting)
        yield slowest


def registry(snapshot: Callable[[], Statistics], meter: Meter) -> CollectorRegistry:
    """A registry of the application's own: its metrics, and those of the process."""
    own = CollectorRegistry()
    own.register(ChatCollector(snapshot, meter))
    ProcessCollector(registry=own)
    return own


def _busiest(topics: list[TopicStatistics]) -> Iterator[Metric]:
    """The topics with most deliveries within the window."""
    busiest = heapq.nlargest(BUSIEST, topics, key=lambda one: one.messages * one.users)
    for name, text in (
        ("messages", "Messages in the window"),
        ("users", "Members"),
        ("mail", "Events that wait"),
    ):
        family = GaugeMetricFamily(f"chat_busiest_{name}", f"{text}, of the busiest topics.", labels=["topic"])
        for one in busiest:
            family.add_metric([one.topic], getattr(one, name))
        yield family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"chat_{name}", text, value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"chat_{name}", text, value)


def _histogram(name: str, text: str, measured: Histogram) -> Metric:
    buckets: list[tuple[str, float]] = []
    total = 0
    for power, count in enumerate(measured.counts[:-1]):
        total += count
        buckets.append((str(measured.limit(power)), total))
    buckets.append(("+Inf", total + measured.counts[-1]))
    return HistogramMetricFamily(f"chat_{name}", text, buckets=buckets, sum_value=measured.sum)
