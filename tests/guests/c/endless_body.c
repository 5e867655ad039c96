/* A response body without end; stops when nobody reads any more. */
#include "wasi_http.h"

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    request_drop(request);
    static char text[4096];
    for (size_t i = 0; i < sizeof(text); i++) text[i] = (char)('a' + i % 26);
    answer a = answer_start(outparam, 200, fields_new());
    while (stream_write(a.stream, text, sizeof(text))) {
    }
    answer_finish(a);
}
