/* wasi:http 0.2 for freestanding C: the imports a handler needs, and a few helpers over them.
 *
 * The Canonical ABI in five lines: a handle is an i32; a string or list is a pointer and a length;
 * a result that is more than one scalar is written where the last argument points (its first byte
 * is the tag: 0 = ok or none); what the host returns by pointer it has allocated with our
 * cabi_realloc; a u64 in a result makes it 8-aligned. The names come from the WIT.
 */
#ifndef WASI_HTTP_H
#define WASI_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMPORT(module, name) __attribute__((import_module(module), import_name(name)))
#define EXPORT(name) __attribute__((export_name(name)))

#define HTTP_TYPES "wasi:http/types@0.2.0"
#define STREAMS "wasi:io/streams@0.2.0"

/* The function every handler defines. */
#define HANDLER EXPORT("wasi:http/incoming-handler@0.2.0#handle") void

typedef int32_t handle;

/* Room for any result used here; the largest is future-incoming-response.get with 56 bytes. */
typedef union {
    uint8_t tag;
    int32_t word[14];
    uint64_t wide[7];
} result;

typedef struct {
    const char *data;
    size_t size;
} string;

#define TEXT(literal) ((string){(literal), sizeof(literal) - 1})

/* --- wasi:http/types ------------------------------------------------------------------------ */

IMPORT(HTTP_TYPES, "[constructor]fields")
handle fields_new(void);
IMPORT(HTTP_TYPES, "[method]fields.append")
void fields_append(handle fields, const char *name, size_t, const char *value, size_t, result *);
IMPORT(HTTP_TYPES, "[method]fields.get")
void fields_get(handle fields, const char *name, size_t, result *); /* list<list<u8>> */
IMPORT(HTTP_TYPES, "[method]fields.entries")
void fields_entries(handle fields, result *); /* list<tuple<string, list<u8>>> */
IMPORT(HTTP_TYPES, "[resource-drop]fields")
void fields_drop(handle);

IMPORT(HTTP_TYPES, "[method]incoming-request.method")
void request_method(handle, result *); /* variant: 0 get … 8 patch, 9 other(string) */
IMPORT(HTTP_TYPES, "[method]incoming-request.path-with-query")
void request_path_with_query(handle, result *); /* option<string> */
IMPORT(HTTP_TYPES, "[method]incoming-request.headers")
handle request_headers(handle);
IMPORT(HTTP_TYPES, "[method]incoming-request.consume")
void request_consume(handle, result *); /* result<incoming-body> */
IMPORT(HTTP_TYPES, "[resource-drop]incoming-request")
void request_drop(handle);

IMPORT(HTTP_TYPES, "[method]incoming-body.stream")
void incoming_body_stream(handle, result *); /* result<input-stream> */
IMPORT(HTTP_TYPES, "[resource-drop]incoming-body")
void incoming_body_drop(handle);

IMPORT(HTTP_TYPES, "[constructor]outgoing-response")
handle response_new(handle headers);
IMPORT(HTTP_TYPES, "[method]outgoing-response.set-status-code")
int32_t response_set_status(handle, int32_t status); /* 0 = ok */
IMPORT(HTTP_TYPES, "[method]outgoing-response.body")
void response_body(handle, result *); /* result<outgoing-body> */
/* result<outgoing-response, error-code>, flattened: the tag, the handle or the error's case, and
 * five words for the payload of that case. */
IMPORT(HTTP_TYPES, "[static]response-outparam.set")
void response_outparam_set(handle, int32_t is_error, handle response, int32_t, int64_t, int32_t,
                           int32_t, int32_t, int32_t);

IMPORT(HTTP_TYPES, "[method]outgoing-body.write")
void outgoing_body_write(handle, result *); /* result<output-stream> */
IMPORT(HTTP_TYPES, "[static]outgoing-body.finish")
void outgoing_body_finish(handle, int32_t has_trailers, handle trailers, result *);
IMPORT(HTTP_TYPES, "[resource-drop]outgoing-body")
void outgoing_body_drop(handle);

IMPORT(HTTP_TYPES, "[constructor]outgoing-request")
handle outgoing_request_new(handle headers);
IMPORT(HTTP_TYPES, "[method]outgoing-request.set-method")
int32_t outgoing_request_set_method(handle, int32_t method, const char *other, size_t);
IMPORT(HTTP_TYPES, "[method]outgoing-request.set-scheme")
int32_t outgoing_request_set_scheme(handle, int32_t some, int32_t scheme, const char *, size_t);
IMPORT(HTTP_TYPES, "[method]outgoing-request.set-authority")
int32_t outgoing_request_set_authority(handle, int32_t some, const char *, size_t);
IMPORT(HTTP_TYPES, "[method]outgoing-request.set-path-with-query")
int32_t outgoing_request_set_path(handle, int32_t some, const char *, size_t);
IMPORT(HTTP_TYPES, "[method]outgoing-request.body")
void outgoing_request_body(handle, result *); /* result<outgoing-body> */

IMPORT("wasi:http/outgoing-handler@0.2.0", "handle")
void outgoing_handle(handle request, int32_t has_options, handle options, result *);
IMPORT(HTTP_TYPES, "[method]future-incoming-response.subscribe")
handle future_response_subscribe(handle);
/* option<result<result<incoming-response, error-code>>>: tags at 0, 8, 16, the handle or the
 * error's case at 24. */
IMPORT(HTTP_TYPES, "[method]future-incoming-response.get")
void future_response_get(handle, result *);
IMPORT(HTTP_TYPES, "[resource-drop]future-incoming-response")
void future_response_drop(handle);
IMPORT(HTTP_TYPES, "[method]incoming-response.status")
int32_t incoming_response_status(handle);
IMPORT(HTTP_TYPES, "[method]incoming-response.headers")
handle incoming_response_headers(handle);
IMPORT(HTTP_TYPES, "[method]incoming-response.consume")
void incoming_response_consume(handle, result *); /* result<incoming-body> */
IMPORT(HTTP_TYPES, "[resource-drop]incoming-response")
void incoming_response_drop(handle);

/* --- wasi:io, wasi:clocks, wasi:cli --------------------------------------------------------- */

/* A stream's error: tag at 0, then at 4 the case (0 failed, with an error handle at 8; 1 closed). */
IMPORT(STREAMS, "[method]input-stream.read")
void input_read(handle, uint64_t size, result *); /* result<list<u8>, stream-error> */
IMPORT(STREAMS, "[method]input-stream.blocking-read")
void input_blocking_read(handle, uint64_t size, result *);
IMPORT(STREAMS, "[method]input-stream.subscribe")
handle input_subscribe(handle);
IMPORT(STREAMS, "[resource-drop]input-stream")
void input_drop(handle);
IMPORT(STREAMS, "[method]output-stream.check-write")
void output_check_write(handle, result *); /* result<u64, stream-error> */
IMPORT(STREAMS, "[method]output-stream.write")
void output_write(handle, const void *, size_t, result *);
IMPORT(STREAMS, "[method]output-stream.blocking-write-and-flush")
void output_blocking_write_and_flush(handle, const void *, size_t, result *); /* at most 4096 */
IMPORT(STREAMS, "[method]output-stream.blocking-flush")
void output_blocking_flush(handle, result *);
IMPORT(STREAMS, "[method]output-stream.blocking-splice")
void output_blocking_splice(handle, handle input, uint64_t size, result *);
IMPORT(STREAMS, "[method]output-stream.subscribe")
handle output_subscribe(handle);
IMPORT(STREAMS, "[resource-drop]output-stream")
void output_drop(handle);

IMPORT("wasi:io/poll@0.2.0", "[method]pollable.block")
void pollable_block(handle);
IMPORT("wasi:io/poll@0.2.0", "poll")
void poll(const handle *, size_t, result *); /* list<u32> */
IMPORT("wasi:io/poll@0.2.0", "[resource-drop]pollable")
void pollable_drop(handle);

IMPORT("wasi:clocks/monotonic-clock@0.2.0", "now")
uint64_t clock_now(void);
IMPORT("wasi:clocks/monotonic-clock@0.2.0", "subscribe-duration")
handle clock_subscribe_duration(uint64_t nanoseconds);

IMPORT("wasi:cli/stdout@0.2.0", "get-stdout")
handle get_stdout(void);
IMPORT("wasi:cli/stderr@0.2.0", "get-stderr")
handle get_stderr(void);
IMPORT("wasi:cli/exit@0.2.0", "exit")
void cli_exit(int32_t is_error);

/* --- memory --------------------------------------------------------------------------------- */

/* The host allocates what it returns here. A bump pointer is enough: a handler sets it back when
 * it no longer needs what it got, at the latest when it starts on the next event. */
#ifndef HEAP_SIZE
#define HEAP_SIZE (128 * 1024)
#endif

static _Alignas(16) uint8_t heap[HEAP_SIZE];
static size_t heap_used;

static inline void heap_reset(void) { heap_used = 0; }

#ifndef OWN_REALLOC
EXPORT("cabi_realloc")
void *cabi_realloc(void *old, size_t old_size, size_t align, size_t new_size) {
    size_t start = (heap_used + align - 1) & ~(align - 1);
    if (start > HEAP_SIZE || new_size > HEAP_SIZE - start) __builtin_trap();
    heap_used = start + new_size;
    if (old_size) __builtin_memcpy(heap + start, old, old_size < new_size ? old_size : new_size);
    return heap + start;
}
#endif

/* --- helpers -------------------------------------------------------------------------------- */

static inline string request_path(handle request) {
    result r;
    request_path_with_query(request, &r);
    return r.tag ? (string){(const char *)r.word[1], (size_t)r.word[2]} : TEXT("");
}

/* The first value of a header; no data when there is none. */
static inline string header(handle fields, string name) {
    result r;
    fields_get(fields, name.data, name.size, &r);
    const string *values = (const string *)r.word[0];
    return r.word[1] ? values[0] : (string){0};
}

/* The path below the application's route where the platform says it, otherwise the whole path. */
static inline string path_in_route(handle request) {
    handle headers = request_headers(request);
    string path = header(headers, TEXT("spin-path-info"));
    fields_drop(headers);
    return path.data ? path : request_path(request);
}

static inline void add_header(handle fields, string name, string value) {
    result r;
    fields_append(fields, name.data, name.size, value.data, value.size, &r);
}

/* An answer under way. */
typedef struct {
    handle body, stream;
} answer;

/* Sends the head; takes the headers. */
static inline answer answer_start(handle outparam, int32_t status, handle headers) {
    result r;
    answer a;
    handle response = response_new(headers);
    if (status != 200) response_set_status(response, status);
    response_body(response, &r);
    a.body = r.word[1];
    response_outparam_set(outparam, 0, response, 0, 0, 0, 0, 0, 0);
    outgoing_body_write(a.body, &r);
    a.stream = r.word[1];
    return a;
}

/* Writes all of it, waiting when the reader is slower. False: nobody reads any more. */
static inline bool stream_write(handle stream, const void *data, size_t size) {
    const uint8_t *at = data;
    while (size) {
        result r;
        size_t part = size < 4096 ? size : 4096;
        output_blocking_write_and_flush(stream, at, part, &r);
        if (r.tag) return false;
        at += part;
        size -= part;
    }
    return true;
}

static inline void answer_finish(answer a) {
    result r;
    output_drop(a.stream);
    outgoing_body_finish(a.body, 0, 0, &r);
}

/* A whole answer of plain text. */
static inline void answer_text(handle outparam, int32_t status, string text) {
    handle headers = fields_new();
    add_header(headers, TEXT("content-type"), TEXT("text/plain"));
    answer a = answer_start(outparam, status, headers);
    stream_write(a.stream, text.data, text.size);
    answer_finish(a);
}

static inline uint32_t parse_number(const char *at, const char *end) {
    uint32_t n = 0;
    while (at < end && *at >= '0' && *at <= '9') n = n * 10 + (uint32_t)(*at++ - '0');
    return n;
}

/* Writes decimal digits before `end`; returns where they start. */
static inline char *format_number(char *end, uint64_t n) {
    do *--end = (char)('0' + n % 10);
    while (n /= 10);
    return end;
}

static inline bool same_text(string a, string b) {
    return a.size == b.size && !__builtin_memcmp(a.data, b.data, a.size);
}

static inline bool starts_with(string text, string prefix) {
    return text.size >= prefix.size && same_text((string){text.data, prefix.size}, prefix);
}

/* Nothing is linked, so what the compiler calls for itself is here. */
int memcmp(const void *a, const void *b, size_t n) {
    const uint8_t *x = a, *y = b;
    for (; n; n--, x++, y++)
        if (*x != *y) return *x - *y;
    return 0;
}

#endif
