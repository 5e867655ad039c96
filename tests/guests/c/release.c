// world: platform
/* One version of an application, which is as good as its variable "fate" says. It answers with its
 * variable "version".
 *
 *   good    all is well            fails   500 to everything but /healthz
 *   sick    503 to /healthz        traps   at everything but /healthz
 *   fades   503 to /healthz once somebody has asked for /spoil
 */
#include "wasi_http.h"

#define KEY_VALUE "fermyon:spin/key-value@2.0.0"

IMPORT(KEY_VALUE, "[static]store.open")
void store_open(const char *, size_t, result *);
IMPORT(KEY_VALUE, "[method]store.set")
void store_set(handle, const char *, size_t, const char *, size_t, result *);
IMPORT(KEY_VALUE, "[method]store.exists")
void store_exists(handle, const char *, size_t, result *); /* bool */
IMPORT("fermyon:spin/variables@2.0.0", "get")
void variable_get(const char *, size_t, result *); /* string */

static string variable(const char *name, size_t size) {
    result r;
    variable_get(name, size, &r);
    if (r.tag) __builtin_trap();
    return (string){(const char *)r.word[1], (size_t)r.word[2]};
}

static handle store(void) {
    result r;
    store_open("default", 7, &r);
    if (r.tag) __builtin_trap();
    return r.word[1];
}

static bool spoiled(string version) {
    result r;
    store_exists(store(), version.data, version.size, &r);
    return !r.tag && (uint8_t)r.word[1];
}

HANDLER handle_request(handle request, handle out) {
    heap_reset();
    result r;
    string path = path_in_route(request);
    request_drop(request);
    string version = variable("version", 7), fate = variable("fate", 4);
    if (same_text(path, TEXT("/healthz"))) {
        bool ill = same_text(fate, TEXT("sick"));
        if (same_text(fate, TEXT("fades"))) ill = spoiled(version);
        return answer_text(out, ill ? 503 : 200, version);
    }
    if (same_text(path, TEXT("/spoil"))) {
        store_set(store(), version.data, version.size, "x", 1, &r);
        return answer_text(out, r.tag ? 500 : 200, version);
    }
    if (same_text(fate, TEXT("traps"))) __builtin_trap();
    answer_text(out, same_text(fate, TEXT("fails")) ? 500 : 200, version);
}
