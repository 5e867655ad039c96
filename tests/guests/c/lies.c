/* A guest that lies: each path is one lie, which must end this guest with a trap and do nothing
 * else; "survived" in an answer means that it did not. Lies named "-survives" are mere errors. */
#define OWN_REALLOC
#include "wasi_http.h"

enum { HONEST, OUTSIDE, WRAPPING, UNALIGNED, TRAPS, LOOPS, CALLS_BACK } realloc_lie;

#define OUTSIDE_POINTER ((void *)0xfffffff0)

EXPORT("cabi_realloc")
void *cabi_realloc(void *old, size_t old_size, size_t align, size_t new_size) {
    (void)old;
    (void)old_size;
    if (realloc_lie == OUTSIDE) return (void *)(__builtin_wasm_memory_size(0) << 16);
    if (realloc_lie == WRAPPING) return OUTSIDE_POINTER;
    if (realloc_lie == TRAPS) __builtin_trap();
    if (realloc_lie == CALLS_BACK) fields_new(); /* a guest may not leave while it allocates */
    while (realloc_lie == LOOPS) {
        static volatile int turns;
        turns++;
    }
    heap_used = (heap_used + align - 1) & ~(align - 1);
    void *start = heap + heap_used + (realloc_lie == UNALIGNED);
    heap_used += new_size + 1;
    return start;
}

static handle some_fields(void) {
    handle fields = fields_new();
    add_header(fields, TEXT("x-name"), TEXT("value"));
    return fields;
}

/* Lists are the case where alignment matters: the entries' pointers are 4-aligned. */
static void list_from_host(int lie) {
    result r;
    handle fields = some_fields();
    realloc_lie = lie;
    fields_entries(fields, &r);
}

#define FAR 0x7fffffff

static answer under_way;

static answer start(handle outparam, handle headers) {
    return under_way = answer_start(outparam, 200, headers);
}

static void lie(string path, handle request, handle outparam) {
    result r;
    handle fields = fields_new();
#define CASE(name) if (same_text(path, TEXT("/" name)))
    /* pointers and lengths */
    CASE("string-outside") fields_append(fields, OUTSIDE_POINTER, 100, "v", 1, &r);
    CASE("string-long") fields_append(fields, "name", FAR, "v", 1, &r);
    CASE("string-huge") fields_append(fields, "name", SIZE_MAX, "v", 1, &r);
    CASE("bytes-outside") fields_append(fields, "name", 4, OUTSIDE_POINTER, 17, &r);
    CASE("bytes-long") fields_append(fields, "name", 4, "v", FAR, &r);
    CASE("result-outside") fields_append(fields, "name", 4, "v", 1, OUTSIDE_POINTER);
    CASE("result-at-end")
        request_path_with_query(request, (void *)((__builtin_wasm_memory_size(0) << 16) - 4));
    CASE("result-unaligned") request_path_with_query(request, (void *)(r.word + 1) + 1);
    CASE("list-overflow") poll((handle *)heap, 0x40000000, &r); /* × 4 wraps to nothing */
    CASE("list-unaligned") poll((handle *)(heap + 1), 1, &r);
    CASE("list-empty") poll((handle *)heap, 0, &r); /* the host traps: nothing to wait for */
    CASE("not-utf8") fields_append(fields, "\xff\xfe", 2, "v", 1, &r);
    CASE("not-utf8-surrogate") fields_append(fields, "\xed\xa0\x80", 3, "v", 1, &r);
    /* values outside their type */
    CASE("bad-case") outgoing_request_set_method(outgoing_request_new(fields), 10, "", 0);
    CASE("bad-option") outgoing_request_set_path(outgoing_request_new(fields), 2, "/", 1);
    CASE("bad-result") response_outparam_set(outparam, 2, 0, 0, 0, 0, 0, 0, 0);
    CASE("bad-error-code") response_outparam_set(outparam, 1, 39, 0, 0, 0, 0, 0, 0);
    CASE("bad-status-survives")
        if (!response_set_status(response_new(fields), 70000)) __builtin_trap();
    /* handles */
    CASE("handle-zero") fields_drop(0);
    CASE("handle-negative") fields_drop(-1);
    CASE("handle-unknown") fields_drop(1000);
    CASE("handle-huge") fields_drop(FAR);
    CASE("handle-type") fields_entries(request, &r);
    CASE("drop-type") fields_drop(request);
    CASE("drop-twice") fields_drop(fields), fields_drop(fields);
    CASE("use-after-drop") fields_drop(fields), fields_entries(fields, &r);
    CASE("use-after-move") response_new(fields), fields_entries(fields, &r);
    CASE("move-twice") response_new(fields), response_new(fields);
    CASE("outparam-twice") {
        start(outparam, fields);
        response_outparam_set(outparam, 0, response_new(some_fields()), 0, 0, 0, 0, 0, 0);
    }
    CASE("body-twice") {
        handle response = response_new(fields);
        response_body(response, &r);
        response_body(response, &r);
        if (r.tag) __builtin_trap(); /* an error is as good */
    }
    CASE("parent-first") { /* a body is dropped while its stream lives */
        answer a = start(outparam, fields);
        outgoing_body_drop(a.body);
    }
    CASE("write-unpermitted") { /* more than check-write allowed */
        answer a = start(outparam, fields);
        for (;;) {
            output_write(a.stream, heap, sizeof(heap), &r);
            if (r.tag) break;
        }
    }
    CASE("write-too-much") { /* blocking-write-and-flush takes at most 4096 bytes */
        answer a = start(outparam, fields);
        output_blocking_write_and_flush(a.stream, heap, 4097, &r);
    }
    CASE("many-handles") for (;;) fields_new();
    CASE("many-timers") for (;;) clock_subscribe_duration(FAR);
    CASE("big-fields") {
        for (size_t i = 0; i < sizeof(heap); i++) heap[i] = 'x';
        do fields_append(fields, "x", 1, (char *)heap, sizeof(heap), &r);
        while (!r.tag);
        __builtin_trap(); /* an error is as good */
    }
    /* allocation */
    CASE("realloc-outside") list_from_host(OUTSIDE);
    CASE("realloc-wrapping") list_from_host(WRAPPING);
    CASE("realloc-unaligned") list_from_host(UNALIGNED);
    CASE("realloc-traps") list_from_host(TRAPS);
    CASE("realloc-loops") list_from_host(LOOPS);
    CASE("realloc-calls-back") list_from_host(CALLS_BACK);

    if (!under_way.body) {
        answer_text(outparam, 200, TEXT("survived"));
        return;
    }
    stream_write(under_way.stream, "survived", 8);
    answer_finish(under_way);
}

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    lie(path_in_route(request), request, outparam);
}
