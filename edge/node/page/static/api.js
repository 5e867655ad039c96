// What the node tells, and the one thing it is told.

/** Something went wrong that its reader can understand. */
export class Problem extends Error {
  constructor({ message, hint }) {
    super(message);
    this.hint = hint;
  }
}

async function request(path, options) {
  const response = await fetch(path, { cache: "no-store", ...options });
  if (response.status === 401) location.assign("/login");
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  throw new Problem(told?.error ?? { message: `${path}: ${response.status}` });
}

export async function ask(path) {
  const response = await request(path, { signal: AbortSignal.timeout(10_000) });
  return response.json();
}

/** Each line of JSON as it comes. */
export async function* lines(path, options) {
  const response = await request(path, options);
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = parts.pop();
      for (const part of parts) yield JSON.parse(part);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Returns when it is done. */
export async function change(path, body) {
  const options = {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  };
  for await (const line of lines(path, options)) {
    if (line.error) throw new Problem(line.error);
    if ("result" in line) return line.result;
  }
  throw new Problem({ message: "the node ended before it had answered" });
}

/** Runs `work` now and each `seconds` after it is done, while somebody looks. */
export function whileSeen(seconds, work) {
  let timer = null;
  async function turn() {
    timer = null;
    if (document.hidden) return;
    await work();
    if (timer === null) timer = setTimeout(turn, seconds * 1000);
  }
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    clearTimeout(timer);
    timer = setTimeout(turn, 0);
  });
  turn();
}
