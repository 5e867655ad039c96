// The applications: a line for each, and what it is made of for who opens one.

import { ask, change } from "/assets/api.js";
import { find, keyed, make, mark, say, sayFigure } from "/assets/dom.js";
import { count, rate, short, since, time } from "/assets/figures.js";

// More lines than anybody reads; the others are found by their names.
const MOST = 100;
// With more of them than this somebody looks for one.
const FEW = 8;

// How a state is shown: nothing is wrong, somebody should look, something is wrong.
const KINDS = {
  live: "good",
  soaking: "good",
  pending: "care",
  waiting: "care",
  failed: "bad",
  "rolled back": "bad",
};
const ORDER = { bad: 0, care: 1, good: 2 };

export const kind = (app) => KINDS[app.state] ?? "care";

export class Applications {
  #all = [];
  #past;
  #showLog;

  constructor(past, showLog) {
    this.#past = past;
    this.#showLog = showLog;
    find("filter").addEventListener("input", () => this.#draw());
  }

  show(apps) {
    this.#all = apps.toSorted(
      (a, b) => ORDER[kind(a)] - ORDER[kind(b)] || a.name.localeCompare(b.name),
    );
    find("filter-label").hidden = apps.length <= FEW;
    this.#draw();
    const open = find("apps").querySelectorAll("details[open]");
    for (const element of open) this.#detail(element);
  }

  /** After new counters. */
  tick() {
    for (const [name, element] of find("apps").known ?? []) this.#figures(element, name);
  }

  #draw() {
    const wanted = find("filter").value.trim().toLowerCase();
    const fitting = this.#all.filter((app) => app.name.toLowerCase().includes(wanted));
    keyed(
      find("apps"),
      fitting.slice(0, MOST),
      (app) => app.name,
      (app) => this.#create(app),
      (element, app) => this.#update(element, app),
    );
    const rest = fitting.length - MOST;
    find("apps-rest").hidden = rest <= 0 && fitting.length > 0;
    const none = this.#all.length ? "none has such a name" : "no applications: edge deploy REF adds one";
    say(find("apps-rest"), rest > 0 ? `and ${rest} more` : none);
  }

  #create(app) {
    const part = (name, tag = "span", extra = "") => make(tag, { class: `${extra} part-${name}`.trim() });
    const element = make(
      "details",
      { class: "app", "data-name": app.name },
      make(
        "summary",
        {},
        part("dot", "span", "dot"),
        make("span", { class: "title" }, make("strong", {}, app.name), part("place", "span", "code quiet"), part("word", "span", "word")),
        make("span", { class: "figures" }, ...["rate", "slow", "failed"].map((name) => part(name, "span", "figure"))),
        part("why", "span", "why"),
      ),
      make("div", { class: "body" }),
    );
    element.addEventListener("toggle", () => element.open && this.#detail(element));
    return element;
  }

  #update(element, app) {
    element.app = app;
    const part = (name) => element.querySelector(`.part-${name}`);
    part("dot").className = `dot part-dot ${kind(app)}`;
    part("word").className = `word part-word ${kind(app)}`;
    say(part("place"), `${app.mount.host ?? ""}${app.mount.path}`);
    say(part("word"), app.state === "live" ? "" : app.state);
    say(part("why"), app.reason ?? "");
    part("why").hidden = !app.reason;
    this.#figures(element, app.name);
  }

  #figures(element, name) {
    const found = this.#past.figures((one) => one.application === name);
    if (!found) return;
    const part = (which) => element.querySelector(`.part-${which}`);
    sayFigure(part("rate"), rate(found.rate));
    const [number, unit] = time(found.slow);
    sayFigure(part("slow"), [number, unit && `${unit} p99`]);
    sayFigure(part("failed"), [count(found.failed), "failed"]);
    mark(part("failed"), "bad", found.failing > 0);
    for (const row of element.querySelectorAll("tr[data-component]")) {
      this.#row(row, name, row.dataset.component);
    }
  }

  #row(row, application, component) {
    const found = this.#past.figures(
      (one) => one.application === application && one.component === component,
    );
    const cells = row.children;
    const texts = [rate(found.rate), time(found.median), time(found.slow)].map((pair) => pair.join(" "));
    texts.push(count(found.inFlight + found.queued), count(found.total), count(found.failed));
    texts.forEach((text, i) => say(cells[i + 1], text));
    mark(cells[6], "bad", found.failing > 0);
  }

  async #detail(element) {
    const name = element.dataset.name;
    const detail = await ask(`/v1/apps/${encodeURIComponent(name)}`).catch(() => null);
    if (detail === null) return;
    // What is the same stays: somebody may be about to press a button of it.
    const shown = JSON.stringify({ ...detail, since: null });
    if (element.shown === shown) return;
    element.shown = shown;
    element.querySelector(".body").replaceChildren(
      this.#facts(detail),
      ...this.#triggers(detail),
      ...this.#components(detail),
      this.#actions(detail),
    );
    this.#figures(element, name);
  }

  #facts(app) {
    const list = make("dl", { class: "facts" });
    const facts = {
      What: app.description,
      State: app.since ? `${app.state} for ${since(app.since)}` : app.state,
      Version: [app.version, short(app.digest)].filter(Boolean).join(" · "),
      Before: short(app.previous),
      Reference: app.reference,
      "Said by": { file: "edge.toml", deploy: "edge deploy", fleet: "the fleet" }[app.source] ?? app.source,
    };
    for (const [name, value] of Object.entries(facts)) {
      if (!value) continue;
      const coded = ["Version", "Before", "Reference"].includes(name);
      list.append(make("dt", {}, name), make("dd", { class: coded ? "code" : "" }, value));
    }
    return list;
  }

  #triggers(app) {
    if (!app.triggers.length) return [];
    const rows = app.triggers.map((one) => {
      const route = one.type === "http" && one.on !== "private";
      const text = route ? `${app.mount.path.replace(/\/$/, "")}${one.on}` : one.on;
      return make("tr", {}, make("td", { class: "code" }, text), make("td", {}, one.component ?? "static answer"));
    });
    const head = make("tr", {}, make("th", { scope: "col" }, "Route or trigger"), make("th", { scope: "col" }, "Component"));
    return [table("texts", head, rows)];
  }

  #components(app) {
    if (!app.components.length || !this.#past.figures()) return [];
    const names = ["Component", "Now", "p50", "p99", "Under way", "Total", "Failed"];
    const head = make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name)));
    const rows = app.components.map((one) =>
      make("tr", { "data-component": one.name }, make("td", {}, one.name), ...names.slice(1).map(() => make("td"))),
    );
    return [table("numbers", head, rows)];
  }

  #actions(app) {
    const log = make("button", { type: "button" }, "Show its log");
    log.addEventListener("click", () => this.#showLog(app.name));
    const back = make("button", { type: "button", class: "rollback" }, "Roll back…");
    back.disabled = !app.previous;
    if (!app.previous) back.title = "there is no version before this one";
    back.addEventListener("click", () => rollback(app, back));
    return make("div", { class: "actions" }, log, back);
  }
}

function table(kind, head, rows) {
  const parts = [make("thead", {}, head), make("tbody", {}, ...rows)];
  return make("div", { class: "scroll" }, make("table", { class: kind }, ...parts));
}

async function rollback(app, button) {
  if (!(await confirmed(app))) return;
  button.disabled = true;
  announce(`${app.name}: going back…`, { lasting: true });
  try {
    const after = await change("/v1/rollback", { name: app.name });
    announce(`${app.name}: ${short(after.digest) ?? "the version before"} serves again`);
  } catch (error) {
    announce([error.message, error.hint].filter(Boolean).join(". "), { lasting: true });
    button.disabled = false;
  }
}

function confirmed(app) {
  const dialog = find("ask");
  say(find("ask-title"), `Roll back ${app.name}?`);
  say(
    find("ask-text"),
    `${short(app.previous)} will serve in the place of ${short(app.digest)}, which is not tried again ` +
      "until its tag moves, or somebody says so.",
  );
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true });
  });
}

let gone = null;

function announce(text, { lasting = false } = {}) {
  const place = find("said");
  say(place, text);
  place.hidden = false;
  clearTimeout(gone);
  gone = setTimeout(() => (place.hidden = true), lasting ? 20_000 : 6_000);
}
