/* Takes memory, and touches each page of it, until there is no more; then traps.
 * "/polite" answers how many 64 KiB pages it got instead. */
#include "wasi_http.h"

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    for (;;) {
        size_t start = __builtin_wasm_memory_grow(0, 16);
        if (start == (size_t)-1) break;
        volatile uint8_t *memory = (volatile uint8_t *)(start << 16);
        for (size_t at = 0; at < 16 << 16; at += 4096) memory[at] = 1;
    }
    if (!same_text(path_in_route(request), TEXT("/polite"))) __builtin_trap();
    char digits[20], *end = digits + sizeof(digits);
    char *start = format_number(end, __builtin_wasm_memory_size(0));
    answer_text(outparam, 200, (string){start, (size_t)(end - start)});
}
