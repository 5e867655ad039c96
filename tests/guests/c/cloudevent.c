/* Answers an event by what the last level of its subject asks for; by default with the request's
 * method, path and headers, one a line, and its body. */
#include "wasi_http.h"

static void echo(handle request, handle outparam) {
    result r;
    handle headers = request_headers(request);
    fields_entries(headers, &r);
    const string *entries = (const string *)r.word[0];
    size_t count = (size_t)r.word[1];

    handle out_headers = fields_new();
    string type = header(headers, TEXT("content-type"));
    add_header(out_headers, TEXT("content-type"), type.data ? type : TEXT("text/plain"));
    answer a = answer_start(outparam, 200, out_headers);
    string path = request_path(request);
    request_method(request, &r);
    stream_write(a.stream, r.tag == 2 ? "POST " : "? ", r.tag == 2 ? 5 : 2);
    stream_write(a.stream, path.data, path.size);
    stream_write(a.stream, "\n", 1);
    for (size_t i = 0; i < count; i++) {
        stream_write(a.stream, entries[2 * i].data, entries[2 * i].size);
        stream_write(a.stream, ": ", 2);
        stream_write(a.stream, entries[2 * i + 1].data, entries[2 * i + 1].size);
        stream_write(a.stream, "\n", 1);
    }
    fields_drop(headers);
    request_consume(request, &r);
    handle body = r.word[1];
    incoming_body_stream(body, &r);
    handle input = r.word[1];
    for (;;) {
        size_t mark = heap_used;
        input_blocking_read(input, 16 * 1024, &r);
        if (r.tag) break;
        stream_write(a.stream, (const void *)r.word[1], (size_t)r.word[2]);
        heap_used = mark;
    }
    input_drop(input);
    incoming_body_drop(body);
    answer_finish(a);
}

static void flood(handle outparam) {
    answer a = answer_start(outparam, 200, fields_new());
    static char block[4096];
    for (int i = 0; i < 257 && stream_write(a.stream, block, sizeof(block)); i++) {}
    answer_finish(a);
}

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    handle headers = request_headers(request);
    string subject = header(headers, TEXT("ce-subject"));
    fields_drop(headers);
    const char *end = subject.data + subject.size, *level = end;
    while (level > subject.data && level[-1] != '/') level--;
    string last = {level, (size_t)(end - level)};
    if (same_text(last, TEXT("trap"))) __builtin_trap();
    if (same_text(last, TEXT("silent"))) return;
    if (same_text(last, TEXT("loop")))
        for (volatile int i = 0;; i++) {}
    if (same_text(last, TEXT("flood"))) return flood(outparam);
    if (same_text(last, TEXT("late"))) {
        answer_text(outparam, 200, TEXT("done"));
        __builtin_trap();
    }
    if (same_text(last, TEXT("sleep"))) pollable_block(clock_subscribe_duration(10 * 1000 * 1000));
    uint32_t status = parse_number(level, end);
    if (status == 200 || status == 204) return answer_text(outparam, (int32_t)status, TEXT(""));
    if (status) return answer_text(outparam, (int32_t)status, TEXT("because of the reading"));
    echo(request, outparam);
    request_drop(request);
}
