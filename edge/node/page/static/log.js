// The log, followed while somebody looks. What is printed is shown as it is: text.

import { lines } from "/assets/api.js";
import { find, make, say } from "/assets/dom.js";

// Lines that are kept here; the node has more.
const KEPT = 500;
const FIRST = 200;
// Seconds before the node is asked again.
const PAUSE = 2;
// Milliseconds in which lines gather: a guest may print thousands a second.
const GATHER = 100;

export class Log {
  #waiting = [];
  #paused = false;
  #stop = null;
  #timer = null;

  constructor() {
    find("log-application").addEventListener("change", () => this.#restart());
    find("log-level").addEventListener("change", () => this.#restart());
    find("log-pause").addEventListener("click", () => this.#pause());
    document.addEventListener("visibilitychange", () => this.#restart());
    this.offer([]);
    this.#restart();
  }

  /** Names of applications to choose from. */
  offer(names) {
    const select = find("log-application");
    const text = names.join("\n");
    if (select.offered === text) return;
    select.offered = text;
    const chosen = select.value;
    const options = names.map((name) => make("option", { value: name }, name));
    select.replaceChildren(make("option", { value: "" }, "everything"), ...options);
    select.value = names.includes(chosen) ? chosen : "";
    if (select.value !== chosen) this.#restart();
  }

  only(name) {
    find("log-application").value = name;
    this.#restart();
    find("log-title").scrollIntoView({ block: "start" });
    find("log-title").focus({ preventScroll: true });
  }

  #pause() {
    this.#paused = !this.#paused;
    find("log-pause").setAttribute("aria-pressed", String(this.#paused));
    say(find("log-pause"), this.#paused ? "Go on" : "Pause");
    this.#restart();
  }

  #restart() {
    this.#stop?.abort();
    clearTimeout(this.#timer);
    if (document.hidden || this.#paused) return;
    this.#stop = new AbortController();
    this.#follow(this.#stop.signal);
  }

  async #follow(signal) {
    const application = find("log-application").value;
    const query = new URLSearchParams({ lines: FIRST, follow: 1, ...(application && { application }) });
    let fresh = true;
    try {
      for await (const line of lines(`/v1/logs?${query}`, { signal })) {
        if (fresh) {
          this.#waiting = [];
          find("log").replaceChildren();
          fresh = false;
        }
        this.#take(line);
      }
    } catch {
      // The node has ended, or cannot be reached: the header says so.
    }
    if (!signal.aborted) this.#timer = setTimeout(() => this.#restart(), PAUSE * 1000);
  }

  #take(line) {
    const wanted = find("log-level").value;
    if (line.missed) this.#waiting.push(make("li", { class: "gap" }, `${line.missed} lines came too fast`));
    else if (line.time && (!wanted || ["warning", "error"].includes(line.level))) this.#waiting.push(entry(line));
    if (this.#waiting.length > KEPT) this.#waiting.splice(0, this.#waiting.length - KEPT);
    if (this.#waiting.length && !this.#waiting.timer) {
      const gathered = this.#waiting;
      gathered.timer = setTimeout(() => this.#put(gathered), GATHER);
    }
  }

  #put(gathered) {
    if (gathered !== this.#waiting) return; // another log is shown meanwhile
    this.#waiting = [];
    const list = find("log");
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    list.append(...gathered);
    while (list.childElementCount > KEPT) list.firstElementChild.remove();
    if (atEnd) list.scrollTop = list.scrollHeight;
  }
}

function entry(line) {
  const moment = new Date(line.time);
  const from = line.component ? `${line.application}/${line.component}` : (line.application ?? "edge");
  const time = make("time", { dateTime: line.time, title: moment.toLocaleString() }, moment.toTimeString().slice(0, 8));
  const who = make("span", { class: "from" }, from);
  if (line.invocation) who.title = `invocation ${line.invocation}`;
  return make("li", { class: line.level }, time, who, make("span", { class: "text" }, line.message));
}
