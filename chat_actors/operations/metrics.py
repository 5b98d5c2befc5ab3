"""The metrics for Prometheus, built from a snapshot and the counters at each scrape. No state of its own."""

import heapq
from collections.abc import Iterator
from typing import Callable

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from chat_actors.counters import Counters, Histogram, Statistics, TopicStatistics
from chat_actors.protocol.codes import close_code

BUSIEST = 10  # topics that get series of their own: the limit bounds the count of series


class ChatCollector(Collector):
    """Collector of the metrics of one application. ``snapshot`` is called at each scrape."""

    def __init__(self, snapshot: Callable[[], Statistics], counters: Counters) -> None:
        self._snapshot = snapshot
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of one moment."""
        seen, counters = self._snapshot(), self._counters
        topics = seen.topics
        yield _gauge("connections", "Open WebSocket connections.", seen.connections)
        yield _gauge("members", "Members of all topics.", sum(one.users for one in topics))
        yield _gauge("topics", "Active topics.", len(topics))
        yield _counter("messages_accepted", "Messages accepted by a topic.", counters.accepted)
        yield _counter("messages_delivered", "Deliveries: messages times members written to.", counters.delivered)
        yield _counter("messages_duplicate", "Messages not sent again: their ref was known.", counters.duplicates)
        yield _counter("messages_expired", "Messages deleted at the end of the window.", counters.expired)
        yield _counter("messages_evicted", "Messages deleted early: their topic was at a limit.", counters.evicted)
        yield _counter("sent_bytes", "Bytes of frames written to connections.", seen.bytes_out)
        refused = CounterMetricFamily("chat_frames_refused", "Frames refused with an error.", labels=["code"])
        for error, count in counters.refused.items():
            refused.add_metric([error], count)
        yield refused
        closed = CounterMetricFamily("chat_closes", "Connections closed by the server.", labels=["code", "cause"])
        for code, count in counters.closed.items():
            closed.add_metric([str(int(code)), _cause(code)], count)
        yield closed
        yield _counter("slow_readers", "Connections aborted because the peer did not read.", counters.slow)
        yield _counter("log_lines_dropped", "Log lines not written.", counters.lines_dropped)
        mail = GaugeMetricFamily("chat_mailbox_events", "Events that wait in mailboxes.", labels=["actors"])
        mail.add_metric(["supervisor"], seen.mail)
        mail.add_metric(["topics"], sum(one.mail for one in topics))
        yield mail
        oldest = max((one.mail_age for one in topics), default=0.0)
        yield _gauge("mailbox_age_seconds", "Longest time that events have waited for a topic's next turn.", oldest)
        yield _histogram("turn_events", "Events taken in one turn of a topic.", counters.turns)
        yield _histogram("fan_out_seconds", "Time from the first to the last member of a fan-out.", counters.fan_outs)
        yield _histogram("event_loop_lag_seconds", "Delay of the event loop, measured twice a second.", counters.lag)
        yield from _busiest(topics)
        slowest = GaugeMetricFamily(
            "chat_reader_waiting_bytes", "Bytes that wait for the slowest readers.", labels=["topic", "username"]
        )
        for reader in seen.slowest:
            slowest.add_metric([reader.topic, reader.username], reader.waiting)
        yield slowest


def registry(snapshot: Callable[[], Statistics], counters: Counters) -> CollectorRegistry:
    """Return a registry of the application's own, with its metrics and those of the process."""
    own = CollectorRegistry()
    own.register(ChatCollector(snapshot, counters))
    ProcessCollector(registry=own)
    return own


def _busiest(topics: list[TopicStatistics]) -> Iterator[Metric]:
    """Yield the metrics of the topics with the most deliveries within the window."""
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


def _cause(code: int) -> str:
    """Return the name of a CloseCode; any other code answers a frame that breaks the WebSocket protocol."""
    try:
        return close_code(code).name.lower()
    except KeyError:
        return "broken_frame"


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
