/* GET "/1048576" answers so many bytes; POST takes the whole body and answers how much it was. */
#include "wasi_http.h"

#define PIECE (64 * 1024)

static uint8_t piece[PIECE];

static void give(handle output, uint32_t left) {
    while (left) {
        result r;
        output_check_write(output, &r);
        if (r.tag) return;
        size_t size = r.wide[1] < PIECE ? (size_t)r.wide[1] : PIECE;
        if (size > left) size = left;
        if (size) {
            output_write(output, piece, size, &r);
            if (r.tag) return;
            left -= (uint32_t)size;
        } else {
            handle ready = output_subscribe(output);
            pollable_block(ready);
            pollable_drop(ready);
        }
    }
}

static uint64_t take(handle request) {
    result r;
    uint64_t taken = 0;
    request_consume(request, &r);
    handle body = r.word[1];
    incoming_body_stream(body, &r);
    handle input = r.word[1];
    for (size_t mark = heap_used;; heap_used = mark) {
        input_blocking_read(input, PIECE, &r);
        if (r.tag) break;
        taken += (uint32_t)r.word[2];
    }
    input_drop(input);
    incoming_body_drop(body);
    return taken;
}

HANDLER handle_request(handle request, handle outparam) {
    result r;
    heap_reset();
    request_method(request, &r);
    if (r.tag == 2) {
        char text[20], *end = text + sizeof(text), *at = format_number(end, take(request));
        request_drop(request);
        answer_text(outparam, 200, (string){at, (size_t)(end - at)});
        return;
    }
    string path = path_in_route(request);
    uint32_t size = path.size ? parse_number(path.data + 1, path.data + path.size) : 0;
    request_drop(request);
    answer a = answer_start(outparam, 200, fields_new());
    give(a.stream, size);
    answer_finish(a);
}
