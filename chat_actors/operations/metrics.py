"""The metrics for Prometheus, built from a snapshot and the counters at each scrape. No state of its own.

No label is made by users: the number of series is bounded, and the names of topics and members stay where they are.
"""

from collections.abc import Iterable, Iterator
from functools import partial

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from chat_actors.counters import Counters, Histogram, Statistics
from chat_actors.protocol.codes import close_code


class ChatCollector(Collector):
    """Collector for one scrape: the metrics of one application, and after them those of the process."""

    def __init__(self, seen: Statistics, counters: Counters, process: Iterable[Metric]) -> None:
        self._seen = seen
        self._counters = counters
        self._process = process

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        seen, counters = self._seen, self._counters
        totals = seen.totals
        yield _gauge("connections", "Open WebSocket connections.", seen.connections)
        yield _gauge("members", "Members of all topics.", totals.users)
        yield _gauge("topics", "Active topics.", totals.topics)
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
        mail.add_metric(["topics"], totals.mail)
        yield mail
        longest = "Longest time that events have waited for a topic's next turn."
        yield _gauge("mailbox_age_seconds", longest, totals.mail_age)
        yield _histogram("turn_events", "Events taken in one turn of a topic.", counters.turns)
        yield _histogram("fan_out_seconds", "Time from the first to the last member of a fan-out.", counters.fan_outs)
        yield _histogram("event_loop_lag_seconds", "Delay of the event loop, measured twice a second.", counters.lag)
        yield _gauge("topic_members_max", "Members of the topic that has most.", totals.max_users)
        yield _gauge("topic_messages_max", "Messages in the window of the topic that has most.", totals.max_messages)
        yield _gauge("topic_mailbox_events_max", "Events that wait for the topic that has most.", totals.max_mail)
        yield _gauge("reader_waiting_bytes_max", "Bytes that wait for the slowest reader.", seen.max_waiting)
        yield from self._process


def registry(seen: Statistics, counters: Counters, process: Iterable[Metric]) -> CollectorRegistry:
    """Return a registry for one scrape. ``process``: the metrics of the process."""
    own = CollectorRegistry()
    own.register(ChatCollector(seen, counters, process))
    return own


def process_metrics(processes: dict[int, int]) -> list[Metric]:
    """Return the metrics of this process; or of several ones, if any are given, with a label for the worker of each."""
    if not processes:
        return [*ProcessCollector(registry=None).collect()]
    merged: dict[str, Metric] = {}
    for worker, process in processes.items():
        for metric in ProcessCollector(pid=partial(int, process), registry=None).collect():
            one = merged.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            for sample in metric.samples:
                one.add_sample(sample.name, {"worker": str(worker)}, sample.value)
    return [*merged.values()]


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
