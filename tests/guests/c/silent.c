/* Returns without an answer. "/drop" drops the outparam, "/error" sets an error (internal-error). */
#include "wasi_http.h"

IMPORT(HTTP_TYPES, "[resource-drop]response-outparam")
void outparam_drop(handle);

#define INTERNAL_ERROR 38 /* the case's index in error-code */

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    string path = path_in_route(request);
    request_drop(request);
    if (same_text(path, TEXT("/drop"))) outparam_drop(outparam);
    if (same_text(path, TEXT("/error")))
        response_outparam_set(outparam, 1, INTERNAL_ERROR, 0, 0, 0, 0, 0, 0);
}
