/* Parts of the Spin platform for freestanding C, beside wasi_http.h: the key-value store, variables;
 * and how an event that is no HTTP request is told from one. */
#ifndef SPIN_H
#define SPIN_H

#include "wasi_http.h"

#define KEY_VALUE "fermyon:spin/key-value@2.0.0"

/* Of each result: the tag at 0; from word 1 on the value, or the error's case and its text. */
IMPORT(KEY_VALUE, "[static]store.open")
void store_open(const char *label, size_t, result *); /* store */
IMPORT(KEY_VALUE, "[method]store.get")
void store_get(handle, const char *key, size_t, result *); /* option<list<u8>> */
IMPORT(KEY_VALUE, "[method]store.set")
void store_set(handle, const char *key, size_t, const char *value, size_t, result *);
IMPORT(KEY_VALUE, "[method]store.get-keys")
void store_get_keys(handle, result *); /* list<string> */
IMPORT(KEY_VALUE, "[resource-drop]store")
void store_drop(handle);

IMPORT("fermyon:spin/variables@2.0.0", "get")
void variable_get(const char *name, size_t, result *); /* string */

static inline handle open_store(void) {
    result r;
    store_open("default", 7, &r);
    if (r.tag) __builtin_trap(); /* not granted: key_value_stores in spin.toml */
    return r.word[1];
}

/* What is stored under a key; no data when nothing is. */
static inline string stored(handle store, string key) {
    result r;
    store_get(store, key.data, key.size, &r);
    if (r.tag) __builtin_trap();
    return (uint8_t)r.word[1] ? (string){(const char *)r.word[2], (size_t)r.word[3]} : (string){0};
}

static inline void put(handle store, string key, string value) {
    result r;
    store_set(store, key.data, key.size, value.data, value.size, &r);
    if (r.tag) __builtin_trap(); /* the event fails and comes again */
}

static inline string variable(string name) {
    result r;
    variable_get(name.data, name.size, &r);
    if (r.tag) __builtin_trap();
    return (string){(const char *)r.word[1], (size_t)r.word[2]};
}

/* A CloudEvents attribute of a request, such as "ce-subject"; no data: it is plain HTTP. */
static inline string attribute(handle request, string name) {
    handle headers = request_headers(request);
    string value = header(headers, name);
    fields_drop(headers);
    return value;
}

/* A request's body, as far as it fits into one read: events are small. */
static inline string read_body(handle request) {
    result r;
    request_consume(request, &r);
    handle body = r.word[1];
    incoming_body_stream(body, &r);
    handle input = r.word[1];
    input_blocking_read(input, 4096, &r);
    string text = r.tag ? TEXT("") : (string){(const char *)r.word[1], (size_t)r.word[2]};
    input_drop(input);
    incoming_body_drop(body);
    return text;
}

/* Text that is put together piece by piece; what does not fit is left out. */
typedef struct {
    char data[4096];
    size_t size;
} text;

static inline void add(text *t, string more) {
    size_t room = sizeof(t->data) - t->size, size = more.size < room ? more.size : room;
    __builtin_memcpy(t->data + t->size, more.data, size);
    t->size += size;
}

static inline string whole(const text *t) { return (string){t->data, t->size}; }

#endif
