/* Calls itself without end; its frames are the engine's, not its own memory. */
#include "wasi_http.h"

static volatile uint32_t depth;

static __attribute__((noinline)) uint32_t down(uint32_t n) {
    depth = n;
    return n == UINT32_MAX ? n : down(n + 1) + depth; /* not a tail call */
}

HANDLER handle_request(handle request, handle outparam) {
    (void)request;
    (void)outparam;
    down(0);
}
