/* Answers how many requests this instance has seen. Paths spoil the instance in ways that must
 * keep it from being used again: "/trap", "/exit", "/leak" (keeps a handle). "/keep" keeps its
 * request, which does not; afterwards "/late" drops that, "/again" reads it. */
#include "wasi_http.h"

static uint64_t count;
static handle kept;

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    string path = path_in_route(request);
    char digits[20], *end = digits + sizeof(digits), *start = format_number(end, ++count);
    answer_text(outparam, 200, (string){start, (size_t)(end - start)});
    if (same_text(path, TEXT("/trap"))) __builtin_trap();
    if (same_text(path, TEXT("/exit"))) cli_exit(0);
    if (same_text(path, TEXT("/leak"))) fields_new();
    if (same_text(path, TEXT("/late"))) request_drop(kept);
    if (same_text(path, TEXT("/again"))) request_path(kept);
    if (same_text(path, TEXT("/keep"))) {
        kept = request;
        return;
    }
    request_drop(request);
}
