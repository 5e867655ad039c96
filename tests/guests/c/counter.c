/* Answers how many requests this instance has seen. Paths spoil the instance in ways that must
 * keep it from being used again: "/trap", "/exit", "/leak" (keeps a handle). */
#include "wasi_http.h"

static uint64_t count;

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    string path = path_in_route(request);
    char digits[20], *end = digits + sizeof(digits), *start = format_number(end, ++count);
    answer_text(outparam, 200, (string){start, (size_t)(end - start)});
    if (same_text(path, TEXT("/trap"))) __builtin_trap();
    if (same_text(path, TEXT("/exit"))) cli_exit(0);
    if (same_text(path, TEXT("/leak"))) return;
    request_drop(request);
}
