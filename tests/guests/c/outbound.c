/* Sends the request on to the URL in its header x-url (GET, or POST with the body when x-method
 * says so) and streams the answer back. "x-authority" replaces the URL's. What fails is a 502 with
 * "error N", N the case of wasi:http's error-code. */
#include "wasi_http.h"

static void failed(handle outparam, int32_t code) {
    char text[] = "error    ";
    char digits[20], *end = digits + sizeof(digits), *start = format_number(end, (uint64_t)code);
    __builtin_memcpy(text + 6, start, (size_t)(end - start));
    answer_text(outparam, 502, (string){text, 6 + (size_t)(end - start)});
}

static void copy(handle input, handle output) {
    result r;
    do output_blocking_splice(output, input, 64 * 1024, &r);
    while (!r.tag);
}

static void send_body(handle incoming, handle out_body) {
    result r;
    request_consume(incoming, &r);
    handle in_body = r.word[1];
    incoming_body_stream(in_body, &r);
    handle input = r.word[1];
    outgoing_body_write(out_body, &r);
    handle output = r.word[1];
    copy(input, output);
    output_blocking_flush(output, &r);
    output_drop(output);
    input_drop(input);
    incoming_body_drop(in_body);
    outgoing_body_finish(out_body, 0, 0, &r);
}

static handle new_request(string url, string authority, bool post) {
    const char *at = url.data, *end = url.data + url.size;
    bool https = starts_with(url, TEXT("https:"));
    at += https ? 8 : 7;
    const char *path = at;
    while (path < end && *path != '/') path++;

    handle outgoing = outgoing_request_new(fields_new());
    outgoing_request_set_method(outgoing, post ? 2 : 0, NULL, 0);
    outgoing_request_set_scheme(outgoing, 1, https, NULL, 0);
    if (authority.data)
        outgoing_request_set_authority(outgoing, 1, authority.data, authority.size);
    else
        outgoing_request_set_authority(outgoing, 1, at, (size_t)(path - at));
    outgoing_request_set_path(outgoing, 1, path < end ? path : "/",
                              path < end ? (size_t)(end - path) : 1);
    return outgoing;
}

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    result r;
    handle headers = request_headers(request);
    string url = header(headers, TEXT("x-url"));
    string authority = header(headers, TEXT("x-authority"));
    bool post = same_text(header(headers, TEXT("x-method")), TEXT("POST"));
    fields_drop(headers);

    handle outgoing = new_request(url, authority, post);
    outgoing_request_body(outgoing, &r); /* before the request is handed over */
    handle out_body = r.word[1];
    outgoing_handle(outgoing, 0, 0, &r);
    if (r.tag) {
        failed(outparam, r.word[2] & 0xff);
        return;
    }
    handle future = r.word[2];
    if (post)
        send_body(request, out_body);
    else
        outgoing_body_finish(out_body, 0, 0, &r);
    handle ready = future_response_subscribe(future);
    pollable_block(ready);
    pollable_drop(ready);
    future_response_get(future, &r);
    if (((uint8_t *)&r)[16]) {
        failed(outparam, r.word[6] & 0xff);
        return;
    }
    handle response = r.word[6];
    future_response_drop(future);

    handle in_headers = incoming_response_headers(response);
    string type = header(in_headers, TEXT("content-type"));
    fields_drop(in_headers);
    handle out_headers = fields_new();
    if (type.data) add_header(out_headers, TEXT("content-type"), type);

    incoming_response_consume(response, &r);
    handle in_body = r.word[1];
    incoming_body_stream(in_body, &r);
    handle input = r.word[1];
    answer a = answer_start(outparam, incoming_response_status(response), out_headers);
    copy(input, a.stream);
    input_drop(input);
    incoming_body_drop(in_body);
    incoming_response_drop(response);
    output_blocking_flush(a.stream, &r);
    answer_finish(a);
    request_drop(request);
}
