/* Answers requests. What there is to call stands in wasi_http.h and spin.h. */
#include "spin.h"

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    result method;
    request_method(request, &method);
    enum { POST = 2 };

    static text page;
    page.size = 0; /* an instance may serve more than one event */
    add(&page, TEXT("hello, "));
    add(&page, method.tag == POST ? read_body(request) : path_in_route(request));
    add(&page, TEXT("\n"));
    answer_text(outparam, 200, whole(&page));
    request_drop(request);
}
