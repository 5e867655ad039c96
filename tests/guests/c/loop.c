/* Never ends, never calls the host. "/late" first sends the head and five bytes of the body. */
#include "wasi_http.h"

static volatile uint32_t turns;

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    if (same_text(path_in_route(request), TEXT("/late"))) {
        answer a = answer_start(outparam, 200, fields_new());
        stream_write(a.stream, "begun", 5);
    }
    for (;;) turns++;
}
