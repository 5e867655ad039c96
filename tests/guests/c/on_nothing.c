/* Exports a handler whose type is not the one that is called. */
// world: on-nothing
#include "wasi_http.h"

EXPORT("handle-message") int32_t handle_message(const char *data, size_t size) {
    (void)data;
    (void)size;
    return 0;
}
