/* "/status/404?x-one=1&x-two=2" is answered with that status and those headers. */
#include "wasi_http.h"

static const char *find(const char *at, const char *end, char wanted) {
    while (at < end && *at != wanted) at++;
    return at;
}

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    string path = request_path(request);
    request_drop(request);
    const char *end = path.data + path.size;
    const char *query = find(path.data, end, '?');

    uint32_t status = 200;
    for (const char *at = path.data; at < query; at++)
        if (*at >= '0' && *at <= '9') {
            status = parse_number(at, query);
            break;
        }

    handle headers = fields_new();
    while (query < end) {
        const char *name = query + 1;
        query = find(name, end, '&');
        const char *equals = find(name, query, '=');
        const char *value = equals < query ? equals + 1 : query;
        add_header(headers, (string){name, (size_t)(equals - name)},
                   (string){value, (size_t)(query - value)});
    }
    answer a = answer_start(outparam, (int32_t)status, headers);
    if (status >= 200 && status != 204 && status != 304) stream_write(a.stream, "status\n", 7);
    answer_finish(a);
}
