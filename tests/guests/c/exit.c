/* Exits without an answer: "/0" successfully, "/1" not. "/answered" answers first. */
#include "wasi_http.h"

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    string path = path_in_route(request);
    request_drop(request);
    if (same_text(path, TEXT("/answered"))) answer_text(outparam, 200, TEXT("answered"));
    cli_exit(same_text(path, TEXT("/1")));
    __builtin_trap();
}
