"""What Prometheus is told, declared once: names, types, labels, and where each value is found in
the JSON of `GET /v1/metrics`. docs/metrics.md is made from it.

Labels take few values: applications and components of this node, outcomes, brokers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["FAMILIES", "Family", "Sample"]

Json = Mapping[str, Any]
# Values of the labels, and the value; a histogram's is the JSON of one.
Sample = tuple[tuple[str, ...], Any]
Read = Callable[[Json], Iterator[Sample]]

_COMPONENT = ("application", "component")


@dataclass(frozen=True, slots=True)
class Family:
    """`name` as it is queried; a histogram's without `_bucket`, `_count`, `_sum`. `read`: from the
    JSON; what is not known there has no sample.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    read: Read
    labels: tuple[str, ...] = ()


def _of_components(key: str) -> Read:
    def read(figures: Json) -> Iterator[Sample]:
        for found in figures["components"]:
            yield (found["application"], found["component"]), found[key]

    return read


def _outcomes(figures: Json) -> Iterator[Sample]:
    for found in figures["components"]:
        for outcome, count in found["outcomes"].items():
            yield (found["application"], found["component"], outcome), count


def _of_node(*path: str) -> Read:
    def read(figures: Json) -> Iterator[Sample]:
        value: Any = figures["node"]
        for key in path:
            value = None if value is None else value[key]
        if value is not None:
            yield (), value

    return read


def _of_brokers(key: str) -> Read:
    def read(figures: Json) -> Iterator[Sample]:
        for found in figures["node"]["mqtt"]:
            yield (found["broker"],), int(found[key])

    return read


def _sync_outcomes(figures: Json) -> Iterator[Sample]:
    for outcome in ("succeeded", "undelivered", "failed"):
        yield (outcome,), figures["node"]["sync"][outcome]


def _build(figures: Json) -> Iterator[Sample]:
    yield (figures["node"]["version"],), 1


def _started(figures: Json) -> Iterator[Sample]:
    yield (), round(figures["at"] - figures["node"]["uptime"], 3)


FAMILIES = (
    Family(
        "edge_invocations_total",
        "counter",
        "Events of all triggers by what became of them, each once.",
        _outcomes,
        (*_COMPONENT, "outcome"),
    ),
    Family(
        "edge_invocation_duration_seconds",
        "histogram",
        "From when an event was admitted to its guest's end.",
        _of_components("latency"),
        _COMPONENT,
    ),
    Family(
        "edge_invocation_queue_duration_seconds",
        "histogram",
        "From when an event came to when it was admitted.",
        _of_components("queue"),
        _COMPONENT,
    ),
    Family(
        "edge_invocations_in_flight",
        "gauge",
        "Events that are being handled.",
        _of_components("in_flight"),
        _COMPONENT,
    ),
    Family(
        "edge_invocations_queued",
        "gauge",
        "Events that wait for room.",
        _of_components("queued"),
        _COMPONENT,
    ),
    Family(
        "edge_instances_kept",
        "gauge",
        "Instances that wait for events.",
        _of_components("kept"),
        _COMPONENT,
    ),
    Family("edge_applications", "gauge", "Applications that serve.", _of_node("applications")),
    Family("edge_pool_slots", "gauge", "Places for guests.", _of_node("pool", "slots")),
    Family(
        "edge_pool_slots_used", "gauge", "Places that are taken.", _of_node("pool", "slots_used")
    ),
    Family(
        "edge_pool_memory_bytes",
        "gauge",
        "Memory that guests may take together.",
        _of_node("pool", "memory"),
    ),
    Family(
        "edge_pool_memory_used_bytes",
        "gauge",
        "Memory that guests have reserved.",
        _of_node("pool", "memory_used"),
    ),
    Family(
        "edge_pool_waiting",
        "gauge",
        "Events of all components that wait for room.",
        _of_node("pool", "waiting"),
    ),
    Family(
        "edge_loop_lag_seconds",
        "gauge",
        "What one turn of the node's loop took at this scrape.",
        _of_node("loop_lag"),
    ),
    Family(
        "edge_workers_serving",
        "gauge",
        "Processes that serve HTTP, where there are several.",
        _of_node("workers", "serving"),
    ),
    Family(
        "edge_worker_restarts_total",
        "counter",
        "How often one of them was started anew.",
        _of_node("workers", "restarts"),
    ),
    Family("edge_store_bytes", "gauge", "Bundles on the disk.", _of_node("store", "used")),
    Family("edge_store_quota_bytes", "gauge", "What they may take.", _of_node("store", "quota")),
    Family(
        "edge_disk_read_bytes_total",
        "counter",
        "What the node read from disks.",
        _of_node("disk", "read"),
    ),
    Family(
        "edge_disk_written_bytes_total",
        "counter",
        "What the node wrote to disks.",
        _of_node("disk", "written"),
    ),
    Family(
        "edge_sync_attempts_total",
        "counter",
        "Attempts to bring an application to what is wanted of it; most find that it is.",
        _sync_outcomes,
        ("outcome",),
    ),
    Family(
        "edge_sync_seconds_total",
        "counter",
        "How long those took, together.",
        _of_node("sync", "seconds"),
    ),
    Family(
        "edge_sync_last_timestamp_seconds",
        "gauge",
        "When references were last looked at, in seconds since 1970.",
        _of_node("sync", "last"),
    ),
    Family(
        "edge_peers_known", "gauge", "Nodes of the fleet beside this.", _of_node("peers", "known")
    ),
    Family("edge_peers_alive", "gauge", "Those that live.", _of_node("peers", "alive")),
    Family(
        "edge_mqtt_connected",
        "gauge",
        "1 while the node is connected to the broker of its triggers.",
        _of_brokers("connected"),
        ("broker",),
    ),
    Family(
        "edge_mqtt_received_total",
        "counter",
        "Messages of triggers.",
        _of_brokers("received"),
        ("broker",),
    ),
    Family(
        "edge_mqtt_published_total",
        "counter",
        "Replies and dead letters that the broker has taken.",
        _of_brokers("published"),
        ("broker",),
    ),
    Family(
        "edge_mqtt_retries_total",
        "counter",
        "Attempts after the first one.",
        _of_brokers("again"),
        ("broker",),
    ),
    Family(
        "edge_mqtt_given_up_total",
        "counter",
        "Messages that were given up; dead letters, where those have a topic.",
        _of_brokers("dead"),
        ("broker",),
    ),
    Family(
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory of the node, guests and compiled code included.",
        _of_node("memory", "rss"),
    ),
    Family(
        "edge_process_proportional_memory_bytes",
        "gauge",
        "The same with what processes share counted in parts.",
        _of_node("memory", "pss"),
    ),
    Family(
        "process_cpu_seconds_total",
        "counter",
        "Processor time of the node, guests included.",
        _of_node("cpu"),
    ),
    Family(
        "process_start_time_seconds",
        "gauge",
        "When the node began, in seconds since 1970.",
        _started,
    ),
    Family("edge_build_info", "gauge", "1.", _build, ("version",)),
)
