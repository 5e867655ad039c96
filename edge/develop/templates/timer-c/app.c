/* Counts its ticks. */
#include "spin.h"

static void show(handle outparam, string count) {
    static text page;
    page.size = 0; /* an instance may serve more than one event */
    add(&page, TEXT("ticks: "));
    add(&page, count.data ? count : TEXT("0"));
    add(&page, TEXT("\n"));
    answer_text(outparam, 200, whole(&page));
}

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    handle store = open_store();
    string count = stored(store, TEXT("ticks"));
    /* A tick comes as a CloudEvent: a POST with its time in `ce-time`. */
    if (attribute(request, TEXT("ce-time")).data) {
        char digits[10], *end = digits + sizeof(digits);
        char *start = format_number(end, parse_number(count.data, count.data + count.size) + 1);
        put(store, TEXT("ticks"), (string){start, (size_t)(end - start)});
        answer_text(outparam, 200, TEXT(""));
    } else {
        show(outparam, count);
    }
    store_drop(store);
    request_drop(request);
}
