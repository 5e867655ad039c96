/* Sends the request's body back while it arrives, with the request's method and content type.
 * Nothing is buffered: a slow reader slows the writer down. */
#include "../wasi_http.h"

static const char *const METHODS[] = {"GET",     "HEAD",    "POST",  "PUT",  "DELETE",
                                      "CONNECT", "OPTIONS", "TRACE", "PATCH"};

static string method_name(handle request) {
    result r;
    request_method(request, &r);
    if (r.tag == 9) return (string){(const char *)r.word[1], (size_t)r.word[2]};
    const char *name = METHODS[r.tag];
    size_t size = 0;
    while (name[size]) size++;
    return (string){name, size};
}

static void copy(handle input, handle output) {
    for (;;) {
        result r;
        size_t mark = heap_used;
        input_blocking_read(input, 64 * 1024, &r);
        if (r.tag) return; /* the end, or a client that is gone */
        const uint8_t *at = (const uint8_t *)r.word[1];
        size_t left = (size_t)r.word[2];
        while (left) {
            output_check_write(output, &r);
            if (r.tag) return;
            size_t allowed = r.wide[1] < left ? (size_t)r.wide[1] : left;
            if (!allowed) {
                handle ready = output_subscribe(output);
                pollable_block(ready);
                pollable_drop(ready);
                continue;
            }
            output_write(output, at, allowed, &r);
            if (r.tag) return;
            at += allowed;
            left -= allowed;
        }
        heap_used = mark;
    }
}

HANDLER handle_request(handle request, handle outparam) {
    result r;
    heap_reset();
    handle headers = request_headers(request);
    string type = header(headers, TEXT("content-type"));
    fields_drop(headers);

    handle out_headers = fields_new();
    if (type.data) add_header(out_headers, TEXT("content-type"), type);
    add_header(out_headers, TEXT("x-method"), method_name(request));
    add_header(out_headers, TEXT("x-path"), request_path(request));

    request_consume(request, &r);
    handle in_body = r.word[1];
    incoming_body_stream(in_body, &r);
    handle input = r.word[1];

    answer a = answer_start(outparam, 200, out_headers);
    copy(input, a.stream);
    input_drop(input);
    incoming_body_drop(in_body);
    request_drop(request);
    output_blocking_flush(a.stream, &r);
    answer_finish(a);
}
