// Counts its ticks.
import { Store } from "fermyon:spin/key-value@2.0.0";

addEventListener("fetch", (event) => event.respondWith(handle(event.request)));

async function handle(request) {
  const store = Store.open("default");
  const stored = store.get("ticks");
  const ticks = stored === undefined ? 0 : Number(new TextDecoder().decode(stored));
  // A tick comes as a CloudEvent: a POST with its time in `ce-time`.
  if (!request.headers.has("ce-time")) return text(`ticks: ${ticks}\n`);
  store.set("ticks", new TextEncoder().encode(String(ticks + 1)));
  return text("");
}

function text(content) {
  return new Response(content, { headers: { "content-type": "text/plain" } });
}
