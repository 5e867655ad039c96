// world: platform
/* Keeps what it is told, and tells it again.
 *
 *   POST /KEY   keeps the body; answered once it is kept
 *   GET /       a line for each key: the key, a space, what is kept or how often it was counted
 *   an event    counts its text, under "event TEXT", and answers with it
 */
#define HEAP_SIZE (4 * 1024 * 1024)
#include "spin.h"

IMPORT("wasi:keyvalue/store@0.2.0-draft2", "open")
void bucket_open(const char *, size_t, result *);
/* result<s64, error>: the number from byte 8 on */
IMPORT("wasi:keyvalue/atomics@0.2.0-draft2", "increment")
void increment(handle, const char *, size_t, int64_t, result *);

static string whole_body(handle request) {
    static char kept[8192];
    string told = {kept, 0};
    result r;
    request_consume(request, &r);
    handle body = r.word[1];
    incoming_body_stream(body, &r);
    handle input = r.word[1];
    for (;;) {
        input_blocking_read(input, sizeof(kept) - told.size, &r);
        if (r.tag) break;
        __builtin_memcpy(kept + told.size, (const void *)r.word[1], (size_t)r.word[2]);
        told.size += (size_t)r.word[2];
    }
    input_drop(input);
    incoming_body_drop(body);
    return told;
}

static void count(handle outparam, string message) {
    static text key;
    key.size = 0;
    add(&key, TEXT("event "));
    add(&key, message);
    result r;
    bucket_open("default", 7, &r);
    if (r.tag) __builtin_trap();
    increment(r.word[1], key.data, key.size, 1, &r);
    if (r.tag) __builtin_trap(); /* the event fails and comes again */
    answer_text(outparam, 200, message);
}

static void tell(handle outparam) {
    result r;
    handle store = open_store();
    store_get_keys(store, &r);
    if (r.tag) __builtin_trap();
    const string *keys = (const string *)r.word[1];
    size_t number = (size_t)r.word[2];
    answer a = answer_start(outparam, 200, fields_new());
    for (size_t i = 0; i < number; i++) {
        size_t mark = heap_used;
        string value = stored(store, keys[i]);
        stream_write(a.stream, keys[i].data, keys[i].size);
        stream_write(a.stream, " ", 1);
        if (starts_with(keys[i], TEXT("event "))) {
            char digits[20], *end = digits + sizeof(digits);
            uint64_t times;
            __builtin_memcpy(&times, value.data, sizeof(times));
            char *start = format_number(end, times);
            value = (string){start, (size_t)(end - start)};
        }
        stream_write(a.stream, value.data, value.size);
        stream_write(a.stream, "\n", 1);
        heap_used = mark;
    }
    answer_finish(a);
}

static bool is_post(handle request) {
    result r;
    request_method(request, &r);
    return r.tag == 2;
}

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    string topic = attribute(request, TEXT("ce-subject")), path = path_in_route(request);
    if (topic.data) {
        count(outparam, whole_body(request));
    } else if (is_post(request)) {
        handle store = open_store();
        string value = whole_body(request);
        put(store, (string){path.data + 1, path.size - 1}, value);
        answer_text(outparam, 200, TEXT("kept"));
    } else if (path.size == 1) {
        tell(outparam);
    } else {
        answer_text(outparam, 200, TEXT("well"));
    }
    request_drop(request);
}
