// Answers requests, as a web worker would.
addEventListener("fetch", (event) => event.respondWith(handle(event.request)));

async function handle(request) {
  const who = request.method === "POST" ? await request.text() : new URL(request.url).pathname;
  return new Response(`hello, ${who}\n`, { headers: { "content-type": "text/plain" } });
}
