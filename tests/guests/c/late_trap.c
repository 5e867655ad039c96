/* Head, some of the body, 50 ms later a trap. "/exit" exits instead, "/return" leaves the body
 * unfinished, "/head" traps after the head. "/quick" before any of them leaves the 50 ms out, so
 * that nothing of the answer needs to have left the host. "/before" traps before the head. */
#include "wasi_http.h"

static bool ends_with(string text, string suffix) {
    return text.size >= suffix.size &&
           same_text((string){text.data + text.size - suffix.size, suffix.size}, suffix);
}

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    string path = path_in_route(request);
    if (ends_with(path, TEXT("/before"))) __builtin_trap();
    answer a = answer_start(outparam, 200, fields_new());
    if (!ends_with(path, TEXT("/head"))) stream_write(a.stream, "some of it", 10);
    if (!starts_with(path, TEXT("/quick"))) {
        handle timer = clock_subscribe_duration(50000000);
        pollable_block(timer);
        pollable_drop(timer);
    }
    if (ends_with(path, TEXT("/return"))) return;
    if (ends_with(path, TEXT("/exit"))) cli_exit(0);
    __builtin_trap();
}
