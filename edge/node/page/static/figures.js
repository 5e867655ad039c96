// Numbers from the node's counters. Nothing here knows the page.

// Seconds: rates are of the last few, so that they follow; latencies of more, so that they are many.
const RATE = 3;
const LATENCY = 30;

/** The counters of the last seconds, and what they say together. */
export class Past {
  #taken = [];

  add(metrics) {
    const last = this.#taken.at(-1);
    // The node was started anew, or its clock was set: what was before says nothing.
    if (last && (metrics.at <= last.at || total(metrics) < total(last))) this.#taken = [];
    this.#taken.push(metrics);
    while (this.#taken.length > 2 && this.#taken[1].at < metrics.at - LATENCY) this.#taken.shift();
  }

  /** Of the components that `wanted` is true of, together. */
  figures(wanted = () => true) {
    const now = this.#taken.at(-1);
    if (!now) return null;
    const recent = this.#taken.findLast((one) => one.at <= now.at - RATE) ?? this.#taken[0];
    const [before, after, earlier] = [recent, now, this.#taken[0]].map((one) => sum(one, wanted));
    const seconds = now.at - recent.at;
    const per = (a, b) => (seconds > 0 ? Math.max(0, a - b) / seconds : 0);
    const counts = after.counts.map((n, i) => Math.max(0, n - (earlier.counts[i] ?? 0)));
    return {
      rate: per(after.total, before.total),
      failing: per(after.failed, before.failed),
      total: after.total,
      failed: after.failed,
      inFlight: after.inFlight,
      queued: after.queued,
      median: quantile(after.bounds, counts, 0.5),
      slow: quantile(after.bounds, counts, 0.99),
    };
  }
}

function total(metrics) {
  return sum(metrics, () => true).total;
}

function sum(metrics, wanted) {
  const found = { total: 0, failed: 0, inFlight: 0, queued: 0, bounds: [], counts: [] };
  for (const one of metrics.components) {
    if (!wanted(one)) continue;
    for (const [outcome, count] of Object.entries(one.outcomes)) {
      found.total += count;
      if (outcome !== "ok" && outcome !== "cancelled") found.failed += count;
    }
    found.inFlight += one.in_flight;
    found.queued += one.queued;
    found.bounds = one.latency.bounds;
    one.latency.counts.forEach((n, i) => (found.counts[i] = (found.counts[i] ?? 0) + n));
  }
  return found;
}

/** Seconds that a share of all takes at most: within its bucket, as if they were spread evenly. */
export function quantile(bounds, counts, share) {
  const all = counts.reduce((sum, n) => sum + n, 0);
  if (!all) return null;
  let left = share * all;
  for (const [i, n] of counts.entries()) {
    if (n && left <= n) {
      if (i === bounds.length) return Infinity;
      const from = i ? bounds[i - 1] : 0;
      return from + (bounds[i] - from) * (left / n);
    }
    left -= n;
  }
  return Infinity;
}

// What people read: a number and its unit.

export function rate(perSecond) {
  if (perSecond === 0) return ["0", "/s"];
  return [perSecond < 10 ? perSecond.toFixed(1) : count(Math.round(perSecond)), "/s"];
}

export function count(number) {
  return Math.round(number).toLocaleString("en").replaceAll(",", "\u202f");
}

export function time(seconds) {
  if (seconds === null) return ["–", ""];
  if (seconds === Infinity) return ["> 60", "s"];
  if (seconds < 0.001) return [(seconds * 1e6).toFixed(0), "µs"];
  if (seconds < 1) return [(seconds * 1e3).toFixed(seconds < 0.01 ? 1 : 0), "ms"];
  return [seconds.toFixed(1), "s"];
}

export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; bytes >= 1024 && unit < units.length - 1; unit += 1) bytes /= 1024;
  return [bytes.toFixed(bytes < 10 && unit ? 1 : 0), units[unit]];
}

export function span(seconds) {
  for (const [length, unit] of [[86400, "d"], [3600, "h"], [60, "m"]]) {
    if (seconds >= 2 * length) return `${Math.floor(seconds / length)}${unit}`;
  }
  return `${Math.max(0, Math.floor(seconds))}s`;
}

export const since = (moment) => span((Date.now() - Date.parse(moment)) / 1000);

/** Enough of a digest to tell versions apart. */
export const short = (digest) => (digest ? digest.split(":")[1].slice(0, 12) : null);
