/* Answers "hello /the/path". */
// A head fits many times over, and the whole memory is one page: the less a guest can touch, the
// less there is to clear after it.
#define HEAP_SIZE (32 * 1024)
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
