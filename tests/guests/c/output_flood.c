/* Writes to its standard output without end; "/stderr": to standard error; "/lineless": no newline. */
#include "wasi_http.h"

HANDLER handle_request(handle request, handle outparam) {
    (void)outparam;
    heap_reset();
    string path = path_in_route(request);
    handle stream = same_text(path, TEXT("/stderr")) ? get_stderr() : get_stdout();
    static char text[4096];
    bool lines = !same_text(path, TEXT("/lineless"));
    for (size_t i = 0; i < sizeof(text); i++) text[i] = lines && i % 64 == 63 ? '\n' : 'x';
    while (stream_write(stream, text, sizeof(text))) {
    }
}
