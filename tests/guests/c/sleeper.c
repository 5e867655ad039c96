/* "/250" sleeps for 250 ms, then answers "slept". */
#include "wasi_http.h"

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    string path = path_in_route(request);
    request_drop(request);
    uint64_t milliseconds = path.size ? parse_number(path.data + 1, path.data + path.size) : 0;
    handle timer = clock_subscribe_duration(milliseconds * 1000000);
    result r;
    poll(&timer, 1, &r);
    pollable_drop(timer);
    answer_text(outparam, 200, TEXT("slept"));
}
