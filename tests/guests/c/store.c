// world: platform
/* Does what the path says with the stores labelled "default" (or the label that `/open/` names),
 * and answers what came of it; an error of the platform with status 500, its case and its text.
 *
 *   /set/KEY/VALUE  /get/KEY  /delete/KEY  /exists/KEY  /keys     fermyon:spin/key-value
 *   /increment/KEY  /append/KEY (compare and swap)                 wasi:keyvalue
 *   /variable/NAME  /config/NAME                                   the component's variables
 *   /sql            each line of the body is a statement           fermyon:spin/sqlite
 */
#include "wasi_http.h"

#define KEY_VALUE "fermyon:spin/key-value@2.0.0"
#define BUCKETS "wasi:keyvalue/store@0.2.0-draft2"
#define ATOMICS "wasi:keyvalue/atomics@0.2.0-draft2"
#define SQLITE "fermyon:spin/sqlite@2.0.0"

/* Of each result: tag at 0; from word 1 on the value, or the error's case and its text. */
IMPORT(KEY_VALUE, "[static]store.open")
void store_open(const char *, size_t, result *);
IMPORT(KEY_VALUE, "[method]store.get")
void store_get(handle, const char *, size_t, result *); /* option<list<u8>> */
IMPORT(KEY_VALUE, "[method]store.set")
void store_set(handle, const char *, size_t, const char *, size_t, result *);
IMPORT(KEY_VALUE, "[method]store.delete")
void store_delete(handle, const char *, size_t, result *);
IMPORT(KEY_VALUE, "[method]store.exists")
void store_exists(handle, const char *, size_t, result *); /* bool */
IMPORT(KEY_VALUE, "[method]store.get-keys")
void store_get_keys(handle, result *); /* list<string> */

IMPORT(BUCKETS, "open")
void bucket_open(const char *, size_t, result *);
/* result<s64, error>: everything from byte 8 on */
IMPORT(ATOMICS, "increment")
void increment(handle, const char *, size_t, int64_t, result *);
IMPORT(ATOMICS, "[static]cas.new")
void cas_new(handle, const char *, size_t, result *);
IMPORT(ATOMICS, "[method]cas.current")
void cas_current(handle, result *); /* option<list<u8>> */
IMPORT(ATOMICS, "swap")
void cas_swap(handle, const char *, size_t, result *); /* error: 0 of the store, 1 a new cas */

IMPORT("fermyon:spin/variables@2.0.0", "get")
void variable_get(const char *, size_t, result *); /* string */
IMPORT("wasi:config/store@0.2.0-draft-2024-09-27", "get")
void config_get(const char *, size_t, result *); /* option<string> */

typedef struct {
    uint8_t tag; /* integer, real, text, blob, null */
    union {
        int64_t integer;
        double real;
        string text;
    };
} value;
typedef struct {
    const value *values;
    size_t count;
} row;

IMPORT(SQLITE, "[static]connection.open")
void connection_open(const char *, size_t, result *);
IMPORT(SQLITE, "[method]connection.execute")
void connection_execute(handle, const char *, size_t, const value *, size_t, result *);

static handle outparam;

static void say(int32_t status, string text) { answer_text(outparam, status, text); }

/* The error in a result, which begins at its word `at`. */
static void fail(const result *r, int at, int with_text) {
    static char text[4096];
    size_t size = 0;
    text[size++] = (char)('0' + (uint8_t)r->word[at]);
    if ((uint8_t)r->word[at] == with_text) {
        text[size++] = ' ';
        size_t more = (size_t)r->word[at + 2];
        if (more > sizeof(text) - size) more = sizeof(text) - size;
        __builtin_memcpy(text + size, (const char *)r->word[at + 1], more);
        size += more;
    }
    say(500, (string){text, size});
}

static void number(int64_t n) {
    char digits[21], *end = digits + sizeof(digits);
    char *start = format_number(end, n < 0 ? (uint64_t)-n : (uint64_t)n);
    if (n < 0) *--start = '-';
    say(200, (string){start, (size_t)(end - start)});
}

static void option(const result *r) {
    if (!(uint8_t)r->word[1]) return say(404, TEXT(""));
    say(200, (string){(const char *)r->word[2], (size_t)r->word[3]});
}

/* What follows `prefix`; no data when the path is another. */
static string after(string path, string prefix) {
    if (!starts_with(path, prefix)) return (string){0};
    return (string){path.data + prefix.size, path.size - prefix.size};
}

static void key_value(string path) {
    result r;
    string key;
    store_open("default", 7, &r);
    if (r.tag) return fail(&r, 1, 3);
    handle store = r.word[1];
    if ((key = after(path, TEXT("/set/"))).data) {
        const char *slash = key.data;
        while (*slash != '/') slash++;
        size_t size = (size_t)(slash - key.data);
        store_set(store, key.data, size, slash + 1, key.size - size - 1, &r);
        return r.tag ? fail(&r, 1, 3) : say(200, TEXT("ok"));
    }
    if ((key = after(path, TEXT("/get/"))).data) {
        store_get(store, key.data, key.size, &r);
        return r.tag ? fail(&r, 1, 3) : option(&r);
    }
    if ((key = after(path, TEXT("/delete/"))).data) {
        store_delete(store, key.data, key.size, &r);
        return r.tag ? fail(&r, 1, 3) : say(200, TEXT("ok"));
    }
    if ((key = after(path, TEXT("/exists/"))).data) {
        store_exists(store, key.data, key.size, &r);
        return r.tag ? fail(&r, 1, 3) : number((uint8_t)r.word[1]);
    }
    store_get_keys(store, &r);
    if (r.tag) return fail(&r, 1, 3);
    const string *keys = (const string *)r.word[1];
    answer a = answer_start(outparam, 200, fields_new());
    for (int i = 0; i < r.word[2]; i++) {
        stream_write(a.stream, keys[i].data, keys[i].size);
        stream_write(a.stream, "\n", 1);
    }
    answer_finish(a);
}

static void append(handle bucket, string key) {
    static char text[1024];
    result r;
    cas_new(bucket, key.data, key.size, &r);
    if (r.tag) return fail(&r, 1, 2);
    for (handle cas = r.word[1];; cas = r.word[2]) {
        size_t size = 0;
        cas_current(cas, &r);
        if (r.tag) return fail(&r, 1, 2);
        if ((uint8_t)r.word[1]) {
            size = (size_t)r.word[3];
            __builtin_memcpy(text, (const char *)r.word[2], size);
        }
        text[size++] = 'x';
        cas_swap(cas, text, size, &r);
        if (!r.tag) return number((int64_t)size);
        if (!(uint8_t)r.word[1]) return fail(&r, 2, 2);
    }
}

static void buckets(string path) {
    result r;
    string key;
    bucket_open("default", 7, &r);
    if (r.tag) return fail(&r, 1, 2);
    handle bucket = r.word[1];
    if ((key = after(path, TEXT("/append/"))).data) return append(bucket, key);
    key = after(path, TEXT("/increment/"));
    increment(bucket, key.data, key.size, 1, &r);
    if (r.tag) return fail(&r, 2, 2);
    number((int64_t)r.wide[1]);
}

static void write_value(handle stream, const value *v) {
    char digits[21], *end = digits + sizeof(digits), *start;
    if (v->tag == 2 || v->tag == 3) {
        stream_write(stream, v->text.data, v->text.size);
    } else if (v->tag == 0) {
        start = format_number(end, v->integer < 0 ? (uint64_t)-v->integer : (uint64_t)v->integer);
        if (v->integer < 0) *--start = '-';
        stream_write(stream, start, (size_t)(end - start));
    } else if (v->tag == 1) {
        stream_write(stream, "real", 4);
    } else {
        stream_write(stream, "null", 4);
    }
}

static string whole_body(handle request) {
    static char text[64 * 1024];
    size_t size = 0;
    result r;
    request_consume(request, &r);
    handle body = r.word[1];
    incoming_body_stream(body, &r);
    handle input = r.word[1];
    for (;;) {
        input_blocking_read(input, sizeof(text) - size, &r);
        if (r.tag) break;
        __builtin_memcpy(text + size, (const char *)r.word[1], (size_t)r.word[2]);
        size += (size_t)r.word[2];
    }
    input_drop(input);
    incoming_body_drop(body);
    return (string){text, size};
}

/* The rows of the last statement. The connection stays open until the instance ends. */
static void sql(string body) {
    result r;
    connection_open("default", 7, &r);
    if (r.tag) return fail(&r, 1, 4);
    handle connection = r.word[1];
    const char *at = body.data, *end = body.data + body.size;
    while (at < end) {
        const char *line = at;
        while (at < end && *at != '\n') at++;
        connection_execute(connection, line, (size_t)(at++ - line), NULL, 0, &r);
        if (r.tag) return fail(&r, 1, 4);
    }
    const row *rows = (const row *)r.word[3];
    answer a = answer_start(outparam, 200, fields_new());
    for (int i = 0; i < r.word[4]; i++) {
        for (size_t j = 0; j < rows[i].count; j++) {
            if (j) stream_write(a.stream, "|", 1);
            write_value(a.stream, &rows[i].values[j]);
        }
        stream_write(a.stream, "\n", 1);
    }
    answer_finish(a);
}

HANDLER handle_request(handle request, handle out) {
    heap_reset();
    outparam = out;
    result r;
    string name, path = path_in_route(request);
    if (same_text(path, TEXT("/sql"))) return sql(whole_body(request));
    if ((name = after(path, TEXT("/variable/"))).data) {
        variable_get(name.data, name.size, &r);
        if (r.tag) return fail(&r, 1, (uint8_t)r.word[1]);
        return say(200, (string){(const char *)r.word[1], (size_t)r.word[2]});
    }
    if ((name = after(path, TEXT("/config/"))).data) {
        config_get(name.data, name.size, &r);
        return r.tag ? fail(&r, 1, (uint8_t)r.word[1]) : option(&r);
    }
    if ((name = after(path, TEXT("/open/"))).data) {
        store_open(name.data, name.size, &r);
        return r.tag ? fail(&r, 1, 3) : say(200, TEXT("ok"));
    }
    if (starts_with(path, TEXT("/increment/")) || starts_with(path, TEXT("/append/")))
        return buckets(path);
    key_value(path);
}
