"""`GET /metrics`: what Prometheus and OpenMetrics take, made of the JSON when somebody asks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from aiohttp import web

from edge.node.metrics.families import FAMILIES, Family

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ["routes"]

Json = Mapping[str, Any]


def routes(figures: Callable[[], Awaitable[Json]]) -> Sequence[web.RouteDef]:
    """`figures`: what `GET /v1/metrics` answers."""

    async def answer(request: web.Request) -> web.Response:
        found = await figures()
        # With thousands of components it takes a while, and so does loading the library.
        text, content_type = await asyncio.to_thread(
            _exposition, found, ",".join(request.headers.getall("accept", ()))
        )
        return web.Response(body=text, headers={"content-type": content_type})

    return (web.get("/metrics", answer),)


def _exposition(figures: Json, accept: str) -> tuple[bytes, str]:
    """The text, and its type, in the best of the formats that are accepted."""
    from prometheus_client.exposition import choose_encoder

    encode, content_type = choose_encoder(accept)
    return encode(_Collected(figures)), content_type


@dataclass(frozen=True, slots=True)
class _Collected:
    """A Collector of prometheus_client."""

    figures: Json

    def collect(self) -> Iterable[Metric]:
        return (_metric(family, self.figures) for family in FAMILIES)


def _metric(family: Family, figures: Json) -> Metric:
    from prometheus_client import metrics_core as core

    if family.kind == "histogram":
        histogram = core.HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, value in family.read(figures):
            histogram.add_metric(labels, list(_buckets(value)), value["sum"])
        return histogram
    kind = core.CounterMetricFamily if family.kind == "counter" else core.GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, value in family.read(figures):
        metric.add_metric(labels, value)
    return metric


def _buckets(histogram: Json) -> Iterator[tuple[str, float]]:
    """Each with those below it, as Prometheus has them."""
    bounds = [*(repr(float(bound)) for bound in histogram["bounds"]), "+Inf"]
    return zip(bounds, accumulate(histogram["counts"]), strict=True)
