// A wasi:http component in JavaScript: greets, and sends back what it is sent.
import {
  Fields,
  OutgoingBody,
  OutgoingResponse,
  ResponseOutparam,
} from "wasi:http/types@0.2.0";

// What blockingWriteAndFlush takes at once.
const PART = 4096;

function* read(request) {
  const body = request.consume();
  const stream = body.stream();
  try {
    for (;;) yield stream.blockingRead(64n * 1024n);
  } catch (error) {
    if (error.payload?.tag !== "closed") throw error;
  }
}

export const incomingHandler = {
  handle(request, out) {
    const headers = Fields.fromList([["content-type", new TextEncoder().encode("text/plain")]]);
    const response = new OutgoingResponse(headers);
    const body = response.body();
    ResponseOutparam.set(out, { tag: "ok", val: response });

    const stream = body.write();
    const parts =
      request.method().tag === "post"
        ? read(request)
        : [new TextEncoder().encode(`hello ${request.pathWithQuery()}`)];
    for (const part of parts)
      for (let at = 0; at < part.length; at += PART)
        stream.blockingWriteAndFlush(part.subarray(at, at + PART));
    stream[Symbol.dispose]();
    OutgoingBody.finish(body, undefined);
  },
};
