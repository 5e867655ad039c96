"""Traces: one of them through HTTP, components and MQTT, as a collector gets it."""

from __future__ import annotations

import asyncio
import http.client
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mqtt_lab import Peer, free_port, mosquitto
from node_lab import Node, application, node
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from edge import config
from edge.errors import ConfigError
from edge.node.tracing import open_tracer

Guest = Callable[[str], Path]
Make = Callable[..., Path]

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """An OTLP endpoint: the spans that it got, by component."""

    def __init__(self) -> None:
        self.spans: list[ProtoSpan] = []
        self.resource: dict[str, str] = {}
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.take(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def take(self, request: ExportTraceServiceRequest) -> None:
        for part in request.resource_spans:
            self.resource = {a.key: a.value.string_value for a in part.resource.attributes}
            for scope in part.scope_spans:
                self.spans += scope.spans

    def of(self, application: str) -> ProtoSpan:
        """Its only span."""
        (span,) = [s for s in self.spans if said(s)["edge.application"] == application]
        return span


def said(span: ProtoSpan) -> dict[str, str | int]:
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    thread = threading.Thread(target=found.server.serve_forever)
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


@pytest.fixture
def make(guest: Guest, tmp_path: Path) -> Make:
    """`make("a", "status", more, trigger)`: a folder with an application of one guest."""

    def made(name: str, wasm: str, more: str = "", trigger: str = "") -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        trigger = trigger or '[[trigger.http]]\nroute = "/..."\ncomponent = "guest"'
        (folder / "spin.toml").write_text(
            f'spin_manifest_version = 2\n[application]\nname = "{name}"\n{trigger}\n'
            f'[component.guest]\nsource = "{guest(wasm)}"\n{more}\n'
        )
        return folder

    return made


def ask(running: Node, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
    try:
        made = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", path, headers=made)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


async def test_one_trace_through_http_and_mqtt(
    make: Make, collector: Collector, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    trigger = (
        '[[trigger.mqtt]]\nid = "in"\ntopic = "t/#"\nqos = "1"\ncomponent = "guest"\n'
        '[component.guest.tool.edge.trigger.in]\nreply_topic = "reply"'
    )
    hosts = (
        'allowed_outbound_hosts = ["http://127.0.0.1:*", "mqtt://127.0.0.1:*"]\n'
        '[component.guest.tool.edge]\nhealth = ""'
    )
    with mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        settings = "".join(
            (
                f'[traces]\nendpoint = "{collector.url}/"\n[mqtt]\nurl = "{broker.url}"\n',
                application("one", make("one", "outbound", hosts), "/one"),
                application("two", make("two", "remote", hosts), "/two"),
                application("three", make("three", "cloudevent", "", trigger)),
            )
        )
        with node(tmp_path, settings) as running:
            async with Peer(broker.port) as peer:
                await peer.subscribe("edge/+/status")
                while (await peer.get()).payload != b"online":
                    pass
                await peer.subscribe("reply")
                status, body = ask(
                    running,
                    "/one/x",
                    x_url=f"{running.url}/two/mqtt/{broker.port}/1/t/x",
                    traceparent=f"00-{TRACE}-{PARENT}-01",
                )
                assert status == 200, (body, running.text)
                reply = await peer.get()
    one, two, three = map(collector.of, ("one", "two", "three"))
    assert len(collector.spans) == 3
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert one.parent_span_id.hex() == PARENT
    assert two.parent_span_id == one.span_id
    assert three.parent_span_id == two.span_id
    kinds = [ProtoSpan.SPAN_KIND_SERVER, ProtoSpan.SPAN_KIND_SERVER, ProtoSpan.SPAN_KIND_CONSUMER]
    assert [span.kind for span in (one, two, three)] == kinds
    assert said(one)["http.response.status_code"] == 200
    assert said(one)["http.route"] == "/one/..."
    assert said(three)["messaging.destination.name"] == "t/x"
    assert all(said(span)["edge.outcome"] == "ok" for span in collector.spans)
    assert one.start_time_unix_nano <= two.start_time_unix_nano <= two.end_time_unix_nano
    assert (collector.resource["service.name"], collector.resource["host.name"] != "") == (
        "edge",
        True,
    )
    mark = f"00-{TRACE}-{three.span_id.hex()}-01"
    assert f"traceparent: {mark}".encode() in reply.payload, "what a guest sees is its own"
    assert dict(reply.properties.UserProperty)["traceparent"] == mark


def test_what_fails_is_said(make: Make, collector: Collector, tmp_path: Path) -> None:
    settings = f'[traces]\nendpoint = "{collector.url}"\n' + application("a", make("a", "status"))
    with node(tmp_path, settings) as running:
        assert ask(running, "/404")[0] == 404
        assert ask(running, "/503")[0] == 503
        # What another one does not sample is not sent.
        assert ask(running, "/200", traceparent=f"00-{TRACE}-{PARENT}-00")[0] == 200
        assert ask(running, "/200", traceparent="00-nonsense")[0] == 200
    by_status = {said(s)["http.response.status_code"]: s for s in collector.spans}
    assert sorted(by_status) == [200, 404, 503]
    assert len({span.trace_id for span in collector.spans}) == 3
    assert by_status[404].status.code == Status.STATUS_CODE_UNSET
    assert by_status[503].status.code == Status.STATUS_CODE_ERROR
    assert said(by_status[503])["error.type"] == "failed"
    assert said(by_status[503])["faas.invocation_id"]


async def test_as_many_are_sent_as_were_asked_for(collector: Collector) -> None:
    async with open_tracer(config.Traces(collector.url, ratio=0.0), "n") as tracer:
        assert tracer is not None
        for carrier in ((), (("traceparent", f"00-{TRACE}-{PARENT}-01"),)):
            span = tracer.begin(carrier, "x", "server", {"edge.application": "a"})
            flags = int(dict(span.carrier)["traceparent"].rpartition("-")[2], 16)
            assert flags & 1 == len(carrier)
            span.end(fault="no")
            span.end()
    (sent,) = collector.spans
    assert sent.trace_id.hex() == TRACE
    assert sent.status.message == "no", "the first end counts"


async def test_a_collector_that_is_away_holds_up_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = config.Traces(f"http://127.0.0.1:{free_port()}")
    async with asyncio.timeout(30), open_tracer(settings, "n") as tracer:
        assert tracer is not None
        for _ in range(3000):  # more than wait
            tracer.begin((), "x", "server", {}).end()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith("does not take them: they are lost until it does")


async def test_libraries_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "edge.node.otlp", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)
    with pytest.raises(ConfigError, match=r"traces\.endpoint: .* opentelemetry") as caught:
        async with open_tracer(config.Traces("http://c:4318"), "n"):
            pass
    assert "edge[traces]" in str(caught.value.hint)
