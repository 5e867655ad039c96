/* Answers "hello /the/path". */
#include "../wasi_http.h"

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    string path = request_path(request);
    request_drop(request);

    static char text[4096];
    size_t size = path.size < sizeof(text) - 6 ? path.size : sizeof(text) - 6;
    __builtin_memcpy(text, "hello ", 6);
    __builtin_memcpy(text + 6, path.data, size);
    answer_text(outparam, 200, (string){text, size + 6});
}
