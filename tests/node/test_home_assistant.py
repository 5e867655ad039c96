"""What Home Assistant is told of a node: by a real broker, as its discovery wants it."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from mqtt_lab import Mosquitto, Peer, Proxy, eventually, mosquitto, proxied
from node_lab import application, node

from edge import config
from edge.config import Mount
from edge.node.homeassistant.devices import Application, Count, Seen, Topics, devices, plain
from edge.node.homeassistant.publisher import open_publisher
from edge.registry.digest import Digest
from edge.registry.sync.status import AppStatus

Guest = Callable[[str], Path]

# Home Assistant's own pattern for topics of discovery, below its prefix.
DISCOVERY = re.compile(r"homeassistant/device/(?:[a-zA-Z0-9_-]+/)?[a-zA-Z0-9_-]+/config")
AVAILABLE = "edge/n1/home-assistant/available"
NODE, ALARM = "homeassistant/device/n1/node/config", "homeassistant/device/n1/app-alarm/config"
STATE = "edge/n1/home-assistant/app-alarm"
DIGEST = Digest.parse("sha256:" + "ab" * 32)


def status(name: str = "alarm", **more: Any) -> AppStatus:
    found = AppStatus(name, f"r.example/{name}:1", "deploy", Mount(), DIGEST, None, "live")
    return replace(found, **more)


@dataclass(slots=True)
class Said:
    """A node that says of itself what a test wants."""

    seen: Seen = field(
        default_factory=lambda: Seen("shop-7", "0.1.0", (Application(status(), "1.2.0"),))
    )
    looks: int = 0
    watching: list[Callable[[], None]] = field(default_factory=list)

    def look(self) -> Seen:
        self.looks += 1
        return self.seen

    def set(self, *applications: Application) -> None:
        self.seen = replace(self.seen, applications=applications)

    def watch(self, call: Callable[[], None]) -> None:
        self.watching.append(call)

    def count(self, events: int) -> None:
        """Events end; who watches is told once."""
        self.set(replace(self.seen.applications[0], count=Count(events, events // 10)))
        watching, self.watching = self.watching, []
        for call in watching:
            call()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path / "broker") as running:
        yield running


@asynccontextmanager
async def publishing(
    url: str, said: Said, folder: Path, *, interval: float = 60.0, client_id: str = "n1"
) -> AsyncIterator[Any]:
    settings = config.Daemon(
        node=config.Node(state_dir=folder),
        mqtt=config.Mqtt(url=url, client_id=client_id, will_delay=0),
        home_assistant=config.HomeAssistant(enabled=True, interval=interval),
    )
    async with open_publisher(settings, None, said.look, said.watch) as publisher:
        yield publisher


class Home(Peer):
    """A client that holds what is retained, and what came."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.came: list[str] = []
        self.retained: dict[str, Any] = {}
        self.client.on_message = lambda _c, _u, message: self._call(self._got, message)

    async def __aenter__(self) -> Home:
        await super().__aenter__()
        for filter in ("homeassistant/#", "edge/#"):
            await self.subscribe(filter)
        return self

    def _got(self, message: Any) -> None:
        self.came.append(message.topic)
        text = message.payload.decode()
        if text:
            self.retained[message.topic] = json.loads(text) if text[0] == "{" else text
        else:
            self.retained.pop(message.topic, None)

    async def sees(self, topic: str, **wanted: Any) -> None:
        """Until what is retained there has these values; without any: until there is nothing."""

        def there() -> bool:
            found = self.retained.get(topic)
            if not wanted or found is None:
                return found is None and not wanted
            return all(found[key] == value for key, value in wanted.items())

        await eventually(there)

    async def available(self, text: str) -> None:
        await eventually(lambda: self.retained.get(AVAILABLE) == text)


async def test_node_and_applications_are_devices(broker: Mosquitto, tmp_path: Path) -> None:
    said = Said()
    said.set(*said.seen.applications, Application(status("b.2", state="failed", reason="no luck")))
    async with publishing(broker.url, said, tmp_path), Home(broker.port) as home:
        await home.available("online")
    found = {t: p for t, p in home.retained.items() if t.startswith("homeassistant/")}
    assert len(found) == 3
    assert all(DISCOVERY.fullmatch(topic) for topic in found)
    ids: set[str] = set()
    for payload in found.values():
        assert payload["origin"]["name"] == "edge"
        assert payload["availability"] == [{"topic": AVAILABLE}]
        state = home.retained[payload["state_topic"]]
        assert len(payload["device"]["identifiers"]) == 1
        for component in payload["components"].values():
            assert component["platform"] in ("sensor", "binary_sensor")
            assert component["unique_id"] not in ids
            ids.add(component["unique_id"])
            templates = [text for key, text in component.items() if key.endswith("template")]
            used = [name for t in templates for name in re.findall(r"value_json\.(\w+)", t)]
            assert used
            assert set(used) <= state.keys()
    node, alarm = found[NODE], found[ALARM]
    assert node["device"]["name"] == "shop-7"
    assert (alarm["device"]["name"], alarm["device"]["via_device"]) == ("alarm on shop-7", "n1")
    assert alarm["device"]["sw_version"] == "1.2.0"
    assert "live" in alarm["components"]["state"]["options"]
    assert home.retained[STATE] == {
        "state": "live", "problem": False, "version": "1.2.0 abababababab", "events": 0,
        "failures": 0, "details": {"reason": None, "reference": "r.example/alarm:1"},
    }  # fmt: skip
    about = home.retained["edge/n1/home-assistant/node"]
    assert about == {"applications": 2, "problem": True, "details": {"applications": ["b.2"]}}


async def test_a_change_is_told_and_nothing_else(broker: Mosquitto, tmp_path: Path) -> None:
    said = Said()
    async with publishing(broker.url, said, tmp_path) as publisher, Home(broker.port) as home:
        await home.available("online")
        home.came.clear()
        publisher.changed()
        await eventually(lambda: said.looks == 2)
        said.set(Application(status(state="rolled back", reason="bad"), "1.1.0"))
        publisher.changed()
        publisher.changed()
        await home.sees(STATE, state="rolled back", problem=True)
        await home.sees("edge/n1/home-assistant/node", problem=True)
        assert said.looks == 3
        # Its version is the device's as well.
        assert sorted(home.came) == [STATE, "edge/n1/home-assistant/node", ALARM]


async def test_what_is_gone_is_removed_also_of_an_earlier_process(
    broker: Mosquitto, tmp_path: Path
) -> None:
    said = Said()
    async with Home(broker.port) as home:
        other = "homeassistant/device/n2/app-alarm/config"
        await home.publish(other, b"{}", retain=True)
        async with publishing(broker.url, said, tmp_path):
            await home.available("online")
        assert ALARM in home.retained
        said.set(Application(status("b")), Application(status("c")))
        async with publishing(broker.url, said, tmp_path) as publisher:
            await home.sees(ALARM)
            await home.sees(STATE)
            await home.sees("edge/n1/home-assistant/app-c", state="live")
            said.set(Application(status("b")))
            publisher.changed()
            await home.sees("homeassistant/device/n1/app-c/config")
            await home.sees("edge/n1/home-assistant/app-c")
        assert other in home.retained
        assert "homeassistant/device/n1/app-b/config" in home.retained


async def test_counts_go_at_most_once_in_each_interval(broker: Mosquitto, tmp_path: Path) -> None:
    said = Said()
    publisher: Any
    async with (
        publishing(broker.url, said, tmp_path, interval=1.0) as publisher,
        Home(broker.port) as home,
    ):
        await home.available("online")
        home.came.clear()
        said.count(10)
        await home.sees(STATE, events=10, failures=1)
        for number in range(11, 200):
            said.count(number)
            await asyncio.sleep(0)
        # A change in between does not bring the counts along.
        said.set(replace(said.seen.applications[0], status=status(state="soaking")))
        publisher.changed()
        await home.sees(STATE, state="soaking", events=10)
        await home.sees(STATE, events=199)
        assert home.came.count(STATE) == 3
        # Who watches waits for the next event, and nothing else does.
        assert len(said.watching) == 1


async def test_all_is_said_again_when_home_assistant_starts(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.node.homeassistant.publisher._SPREAD", 0.2)
    said = Said()
    async with Home(broker.port) as home:
        # This one was kept by the broker: no news.
        await home.publish("homeassistant/status", b"online", retain=True)
        async with publishing(broker.url, said, tmp_path):
            await home.available("online")
            assert said.looks == 1
            await home.publish("homeassistant/status", b"offline")
            home.came.clear()
            await home.publish("homeassistant/status", b"online")
            await eventually(lambda: {NODE, ALARM, STATE} <= {*home.came})
            assert said.looks == 2


async def test_its_end_and_its_loss_make_the_devices_unavailable(
    broker: Mosquitto, tmp_path: Path
) -> None:
    said = Said()
    proxy: Proxy
    async with Home(broker.port) as home, proxied(broker) as proxy:
        async with publishing(proxy.url, said, tmp_path):
            await home.available("online")
            proxy.up = False
            proxy.cut()
            await home.available("offline")
            proxy.up = True
            await home.available("online")
        await home.available("offline")


async def test_a_name_is_made_once(broker: Mosquitto, tmp_path: Path) -> None:
    said = Said()
    async with Home(broker.port) as home:
        for _ in range(2):
            home.retained.clear()
            async with publishing(broker.url, said, tmp_path, client_id=""):
                await eventually(lambda: "online" in home.retained.values())
        announced = {topic.split("/")[2] for topic in home.retained if "device" in topic}
        assert len(announced) == 1


def test_names_fit_into_topics_and_stay_apart() -> None:
    assert plain("alarm-1_B") == "alarm-1_B"
    names = ["a.b", "a_b", "a-b", "a..b", "ä"]
    made = {plain(name) for name in names}
    assert len(made) == len(names)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]+", name) for name in made)
    topics = Topics("homeassistant", "n1")
    assert topics.device(topics.announced("app-a")) == "app-a"
    assert topics.device("homeassistant/device/n2/app-a/config") is None
    assert topics.device("homeassistant/device/n1/config") is None


def test_a_reason_without_end_is_cut() -> None:
    seen = Seen("n", "1", (Application(status(state="failed", reason="x" * 10_000)),))
    made = devices(seen, Topics("homeassistant", "n1"))
    assert len(json.loads(made["app-alarm"].state)["details"]["reason"]) == 250


async def test_a_node_tells_what_becomes_of_its_applications(
    broker: Mosquitto, guest: Guest, tmp_path: Path
) -> None:
    folder = tmp_path / "hello"
    folder.mkdir()
    manifest = folder / "spin.toml"
    manifest.write_text(
        'spin_manifest_version = 2\n[application]\nname = "hello"\nversion = "3.1.4"\n'
        '[[trigger.http]]\nroute = "/..."\ncomponent = "guest"\n'
        f'[component.guest]\nsource = "{guest("hello")}"\n'
    )
    settings = (
        f'[mqtt]\nurl = "{broker.url}"\nclient_id = "n1"\n'
        '[home_assistant]\nenabled = true\ninterval = "1s"\n'
    )
    state = "edge/n1/home-assistant/app-hello"
    async with Home(broker.port) as home:
        with node(tmp_path, settings + application("hello", folder)) as running:
            await home.sees(state, state="live", events=0)
            assert home.retained[state]["version"].startswith("3.1.4")
            for _ in range(25):
                assert (await asyncio.to_thread(running.get))[0] == 200
            await home.sees(state, events=25, failures=0)
            manifest.write_text("no manifest")
            await asyncio.to_thread(running.edge, "sync")
            await home.sees(state, state="failed", problem=True)
            assert "spin.toml" in home.retained[state]["details"]["reason"]
            await home.available("online")
        await home.available("offline")


@pytest.mark.parametrize("on", [False, True])
def test_who_does_not_want_it_has_no_client_of_mqtt(on: bool, tmp_path: Path) -> None:
    script = """
import asyncio, sys
from pathlib import Path
from edge import config
from edge.errors import ConfigError
from edge.invocation.meter import Meters
from edge.node import daemon, homeassistant

async def enter():
    settings = config.Daemon(
        node=config.Node(state_dir=Path(sys.argv[1])),
        mqtt=config.Mqtt(url="mqtts://127.0.0.1:1", ca_file="/nowhere"),
        home_assistant=config.HomeAssistant(enabled=sys.argv[2] == "True"),
    )
    async with homeassistant.home_assistant(settings, None, None, Meters()):
        pass

try:
    asyncio.run(enter())
except ConfigError:
    pass
sys.exit(7 if "paho.mqtt.client" in sys.modules else 0)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), str(on)], check=False)
    assert done.returncode == (7 if on else 0)
