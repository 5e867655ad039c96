// world: platform
/* Talks to the server on a port of this machine and answers what came of it; an error with status
 * 500, its case and its text.
 *
 *   /redis/PORT/get/KEY  /redis/PORT/incr/KEY    fermyon:spin/redis
 *   /redis/PORT/wait     waits for an element of a list that nobody makes
 *   /redis/PORT/trap     ends with the connection open
 *   /mqtt/PORT/QOS/TOPIC publishes "hello"       fermyon:spin/mqtt
 */
#include "wasi_http.h"

#define REDIS "fermyon:spin/redis@2.0.0"
#define MQTT "fermyon:spin/mqtt@2.0.0"

IMPORT(REDIS, "[static]connection.open")
void redis_open(const char *, size_t, result *);
IMPORT(REDIS, "[method]connection.get")
void redis_get(handle, const char *, size_t, result *); /* option<list<u8>> */
/* result<s64, error>: everything from byte 8 on */
IMPORT(REDIS, "[method]connection.incr")
void redis_incr(handle, const char *, size_t, result *);

typedef struct {
    uint8_t tag; /* int64, binary */
    union {
        int64_t number;
        string binary;
    };
} parameter;
IMPORT(REDIS, "[method]connection.execute")
void redis_execute(handle, const char *, size_t, const parameter *, size_t, result *);

IMPORT(MQTT, "[static]connection.open")
void mqtt_open(const char *, size_t, const char *, size_t, const char *, size_t, uint64_t,
               result *);
IMPORT(MQTT, "[method]connection.publish")
void mqtt_publish(handle, const char *, size_t, const char *, size_t, int32_t qos, result *);

static handle outparam;

static void say(int32_t status, string text) { answer_text(outparam, status, text); }

/* The error in a result, which begins at its word `at`; cases from `with_text` on have a text. */
static void fail(const result *r, int at, int with_text) {
    static char text[4096];
    size_t size = 0;
    text[size++] = (char)('0' + (uint8_t)r->word[at]);
    if ((uint8_t)r->word[at] >= with_text) {
        text[size++] = ' ';
        size_t more = (size_t)r->word[at + 2];
        if (more > sizeof(text) - size) more = sizeof(text) - size;
        __builtin_memcpy(text + size, (const char *)r->word[at + 1], more);
        size += more;
    }
    say(500, (string){text, size});
}

/* Takes what is before the next slash off the front. */
static string part(string *path) {
    const char *start = path->data, *end = start + path->size, *at = start;
    while (at < end && *at != '/') at++;
    *path = at < end ? (string){at + 1, (size_t)(end - at - 1)} : (string){at, 0};
    return (string){start, (size_t)(at - start)};
}

static string address(string scheme, string port) {
    static char text[64];
    __builtin_memcpy(text, scheme.data, scheme.size);
    __builtin_memcpy(text + scheme.size, port.data, port.size);
    return (string){text, scheme.size + port.size};
}

static void redis(string path) {
    result r;
    string at = address(TEXT("redis://127.0.0.1:"), part(&path)), command = part(&path);
    redis_open(at.data, at.size, &r);
    if (r.tag) return fail(&r, 1, 3);
    handle connection = r.word[1];
    if (same_text(command, TEXT("trap"))) __builtin_trap();
    if (same_text(command, TEXT("incr"))) {
        char digits[21], *end = digits + sizeof(digits), *start;
        redis_incr(connection, path.data, path.size, &r);
        if (r.tag) return fail(&r, 2, 3);
        start = format_number(end, r.wide[1]);
        return say(200, (string){start, (size_t)(end - start)});
    }
    if (same_text(command, TEXT("wait"))) {
        parameter arguments[] = {{1, .binary = TEXT("nothing")}, {0, .number = 0}};
        redis_execute(connection, "BLPOP", 5, arguments, 2, &r);
        return r.tag ? fail(&r, 1, 3) : say(200, TEXT("came"));
    }
    redis_get(connection, path.data, path.size, &r);
    if (r.tag) return fail(&r, 1, 3);
    if (!(uint8_t)r.word[1]) return say(404, TEXT(""));
    say(200, (string){(const char *)r.word[2], (size_t)r.word[3]});
}

static void mqtt(string path) {
    result r;
    string at = address(TEXT("mqtt://127.0.0.1:"), part(&path)), qos = part(&path);
    mqtt_open(at.data, at.size, NULL, 0, NULL, 0, 30, &r);
    if (r.tag) return fail(&r, 1, 2);
    mqtt_publish(r.word[1], path.data, path.size, "hello", 5, *qos.data - '0', &r);
    return r.tag ? fail(&r, 1, 2) : say(200, TEXT("published"));
}

HANDLER handle_request(handle request, handle out) {
    heap_reset();
    outparam = out;
    string path = path_in_route(request);
    part(&path);
    string first = part(&path);
    if (same_text(first, TEXT("mqtt"))) return mqtt(path);
    redis(path);
}
