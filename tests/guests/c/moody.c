/* Answers with what it was sent; sometimes it traps, fails or takes its time, as chance has it.
 * What begins with "poison" fails each time, what begins with "refuse" is refused. */
#include "wasi_http.h"

IMPORT("wasi:random/random@0.2.0", "get-random-u64") uint64_t random_u64(void);

HANDLER handle_request(handle request, handle outparam) {
    result r;
    heap_reset();
    request_consume(request, &r);
    handle body = r.word[1];
    incoming_body_stream(body, &r);
    handle input = r.word[1];
    static char text[256];
    string told = {text, 0};
    for (;;) {
        input_blocking_read(input, sizeof(text) - told.size, &r);
        if (r.tag) break;
        __builtin_memcpy(text + told.size, (const void *)r.word[1], (size_t)r.word[2]);
        told.size += (size_t)r.word[2];
    }
    input_drop(input);
    incoming_body_drop(body);
    request_drop(request);

    uint32_t chance = (uint32_t)(random_u64() % 64);
    if (starts_with(told, TEXT("refuse"))) return answer_text(outparam, 400, TEXT("no such thing"));
    if (starts_with(told, TEXT("poison")) || chance == 1)
        return answer_text(outparam, 503, TEXT("not now"));
    if (chance == 2) __builtin_trap();
    pollable_block(clock_subscribe_duration(chance == 3 ? 50000000 : 4000000));
    answer_text(outparam, 200, told);
}
