/* "/64" takes 64 MiB and touches each page; "/64/250" then also sleeps for 250 ms. Answers "ok",
 * or 507 when it did not get the memory. */
#include "wasi_http.h"

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    string path = path_in_route(request);
    request_drop(request);
    const char *at = path.data + 1, *end = path.data + path.size;
    size_t pages = parse_number(at, end) * 16;
    while (at < end && *at != '/') at++;
    uint64_t milliseconds = at < end ? parse_number(at + 1, end) : 0;

    size_t start = __builtin_wasm_memory_grow(0, pages);
    if (start == (size_t)-1) {
        answer_text(outparam, 507, TEXT("no memory"));
        return;
    }
    volatile uint8_t *memory = (volatile uint8_t *)(start << 16);
    for (size_t byte = 0; byte < pages << 16; byte += 4096) memory[byte] = 1;
    if (milliseconds) {
        handle timer = clock_subscribe_duration(milliseconds * 1000000);
        pollable_block(timer);
        pollable_drop(timer);
    }
    answer_text(outparam, 200, TEXT("ok"));
}
