// Keeps the last temperature of each room, and says when one is too warm.
import { Store } from "fermyon:spin/key-value@2.0.0";
import { get as variable } from "fermyon:spin/variables@2.0.0";

addEventListener("fetch", (event) => event.respondWith(handle(event.request)));

async function handle(request) {
  // A message comes as a CloudEvent: a POST with its topic in `ce-subject`.
  const topic = request.headers.get("ce-subject");
  return topic === null ? show() : take(topic.split("/")[1], await request.text());
}

// What is answered is published to `reply_topic`; an empty answer publishes nothing.
function take(room, reading) {
  // 4xx is final. After any other failure the message comes again.
  if (reading.trim() === "" || isNaN(reading)) return text(400, "not a temperature");
  Store.open("default").set(room, new TextEncoder().encode(reading));
  const limit = variable("limit");
  return text(200, Number(reading) > Number(limit) ? `${room}: ${reading} is above ${limit}` : "");
}

function show() {
  const store = Store.open("default");
  const decoder = new TextDecoder();
  const lines = store
    .getKeys()
    .sort()
    .map((room) => `${room} ${decoder.decode(store.get(room))}\n`);
  return text(200, lines.join("") || "no readings yet\n");
}

function text(status, content) {
  return new Response(content, { status, headers: { "content-type": "text/plain" } });
}
