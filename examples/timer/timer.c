// world: platform
/* Counts its ticks. A tick comes as a CloudEvent, a POST with `ce-time`; a plain request shows them.
 * A component that exports Spin's `handle-cron-event` would be called by that instead. */
#define HEAP_SIZE (32 * 1024)
#include "../spin.h"

static void tick(handle outparam, string time) {
    char digits[10], *end = digits + sizeof(digits);
    handle store = open_store();
    string count = stored(store, TEXT("count"));
    char *start = format_number(end, parse_number(count.data, count.data + count.size) + 1);
    put(store, TEXT("count"), (string){start, (size_t)(end - start)});
    put(store, TEXT("last"), time);
    store_drop(store);
    answer_text(outparam, 200, TEXT(""));
}

static void show(handle outparam) {
    static text page;
    page.size = 0;
    handle store = open_store();
    string count = stored(store, TEXT("count"));
    add(&page, count.data ? count : TEXT("0"));
    add(&page, TEXT(" ticks"));
    if (count.data) add(&page, TEXT(", the last of "));
    if (count.data) add(&page, stored(store, TEXT("last")));
    add(&page, TEXT("\n"));
    answer_text(outparam, 200, whole(&page));
}

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    string time = attribute(request, TEXT("ce-time"));
    if (time.data)
        tick(outparam, time);
    else
        show(outparam);
    request_drop(request);
}
