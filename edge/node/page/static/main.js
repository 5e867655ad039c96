// The page of a node: asks it while somebody looks, and shows what it says.

import { Problem, ask, whileSeen } from "/assets/api.js";
import { Applications, kind } from "/assets/applications.js";
import { find, keyed, make, mark, say, sayFigure } from "/assets/dom.js";
import { Past, count, rate, short, since, size, span, time } from "/assets/figures.js";
import { Log } from "/assets/log.js";

const past = new Past();
const log = new Log();
const applications = new Applications(past, (name) => log.only(name));

// Of the last two minutes.
const rates = [];
const SHOWN = 120;

function state(text, dot) {
  const place = find("state");
  if (place.dataset.shown === `${dot} ${text}`) return;
  place.dataset.shown = `${dot} ${text}`;
  place.replaceChildren(make("span", { class: `dot ${dot}` }), text);
}

/** Work of the page that says when the node does not answer. */
const asking = (work) => async () => {
  try {
    await work();
  } catch (error) {
    state(error instanceof Problem ? error.message : "the node does not answer", "bad");
  }
};

function showApps(apps) {
  applications.show(apps);
  log.offer(apps.map((app) => app.name).toSorted());
  const wrong = apps.filter((app) => kind(app) === "bad").length;
  const noun = apps.length === 1 ? "application" : "applications";
  if (wrong) state(`${wrong} of ${apps.length} ${noun} not as wanted`, "bad");
  else state(`${apps.length} ${noun}, all as wanted`, "good");
}

function showStatus(status) {
  document.title = `${status.name} · edge`;
  say(find("name"), status.name);
  const fleet = status.fleet ? `, of the fleet ${status.fleet.name}` : "";
  say(find("about"), `edge ${status.version}, up ${span(status.uptime)}${fleet}`);
  find("notes").hidden = !status.notes.length;
  keyed(find("notes"), status.notes, (note) => note, (note) => make("li", {}, note), () => {});
  const { used, quota } = status.store;
  const parts = [`serves ${status.listening.join(", ")}`];
  if (status.last_sync) parts.push(`looked at its references ${since(status.last_sync)} ago`);
  if (used !== null) parts.push(`keeps ${size(used).join(" ")} of at most ${size(quota).join(" ")}`);
  say(find("foot"), parts.join(" · "));
}

function showPeers(found) {
  find("peers-section").hidden = !found.fleet;
  keyed(find("peers"), found.peers, (peer) => peer.id, makePeer, updatePeer);
}

const makePeer = () =>
  make("li", { class: "peer" }, make("span", { class: "dot" }), make("span"), make("span", { class: "more" }));

function updatePeer(element, peer) {
  const [dot, title, more] = element.children;
  const alive = peer.state === "alive";
  dot.className = `dot ${alive ? "good" : "bad"}`;
  say(title, `${peer.name || short(`:${peer.id}`)} ${peer.addresses[0] ?? ""}`);
  const about = [`${peer.applications} applications`, `edge ${peer.version}`];
  if (!alive) about.unshift(peer.reason ?? peer.state);
  say(more, about.join(" · "));
}

function showMetrics(metrics) {
  past.add(metrics);
  applications.tick();
  const all = past.figures();
  sayFigure(find("rate"), rate(all.rate));
  sayFigure(find("failed"), [count(all.failed), `of ${count(all.total)}`]);
  mark(find("failed"), "bad", all.failing > 0);
  sayFigure(find("median"), time(all.median));
  sayFigure(find("slow"), time(all.slow));
  sayFigure(find("flight"), [count(all.inFlight), all.queued ? `+ ${count(all.queued)} waiting` : ""]);
  const memory = metrics.node?.memory;
  if (memory?.rss) sayFigure(find("memory"), size(memory.pss ?? memory.rss));
  rates.push(all.rate);
  if (rates.length > SHOWN) rates.shift();
  spark(find("spark"), rates);
}

const SVG = "http://www.w3.org/2000/svg";

function spark(place, values) {
  if (!place.firstChild) {
    for (const name of ["area", "line"]) {
      place.append(document.createElementNS(SVG, name === "area" ? "polygon" : "polyline"));
      place.lastChild.classList.add(name);
    }
  }
  const top = Math.max(1, ...values);
  const at = (value, i) => `${(120 * (i + SHOWN - values.length)) / (SHOWN - 1)},${30 - (26 * value) / top}`;
  const points = values.map(at);
  const first = (120 * (SHOWN - values.length)) / (SHOWN - 1);
  place.children[0].setAttribute("points", [`${first},32`, ...points, "120,32"].join(" "));
  place.children[1].setAttribute("points", points.join(" "));
}

whileSeen(1, () => ask("/v1/metrics").then(showMetrics, () => {})); // the others say what is wrong
whileSeen(2, asking(async () => showApps(await ask("/v1/apps"))));
whileSeen(5, asking(async () => showPeers(await ask("/v1/peers"))));
whileSeen(10, asking(async () => showStatus(await ask("/v1/status"))));
ask("/v1/page").then(({ login }) => (find("logout").hidden = !login), () => {});
