/* Head, then some of the body, then a trap. "/exit" exits instead, "/return" leaves the body
 * unfinished, "/head" traps right after the head, "/before" before it. */
#include "wasi_http.h"

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    string path = request_path(request);
    if (same_text(path, TEXT("/before"))) __builtin_trap();
    answer a = answer_start(outparam, 200, fields_new());
    if (same_text(path, TEXT("/head"))) __builtin_trap();
    stream_write(a.stream, "some of it", 10);
    if (same_text(path, TEXT("/return"))) return;
    if (same_text(path, TEXT("/exit"))) cli_exit(0);
    __builtin_trap();
}
