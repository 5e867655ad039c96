/* Keeps the last temperature of each room, and says when one is too warm. */
#include "spin.h"

/* "21.5" in thousandths of a degree; false: that is no reading. */
static bool parse_reading(string s, int32_t *out) {
    const char *at = s.data, *end = s.data + s.size;
    bool negative = at < end && *at == '-';
    int32_t n = 0, digits = 0;
    for (at += negative; at < end && *at >= '0' && *at <= '9' && digits < 6; at++, digits++)
        n = n * 10 + (*at - '0');
    if (!digits) return false;
    n *= 1000;
    if (at < end && *at == '.')
        for (int32_t place = 100; ++at < end && *at >= '0' && *at <= '9'; place /= 10)
            n += (*at - '0') * place;
    *out = negative ? -n : n;
    return at == end;
}

/* "sensors/kitchen/temperature" → "kitchen" */
static string second_level(string topic) {
    const char *end = topic.data + topic.size, *start = topic.data;
    while (start < end && *start != '/') start++;
    if (start < end) start++;
    const char *stop = start;
    while (stop < end && *stop != '/') stop++;
    return (string){start, (size_t)(stop - start)};
}

/* What is answered is published to `reply_topic`; an empty answer publishes nothing. */
static void take(handle outparam, string room, string reading) {
    string limit_text = variable(TEXT("limit"));
    int32_t now, limit;
    /* 4xx is final. After any other failure the message comes again. */
    if (!parse_reading(reading, &now)) return answer_text(outparam, 400, TEXT("not a temperature"));
    if (!parse_reading(limit_text, &limit)) __builtin_trap();

    handle store = open_store();
    put(store, room, reading);
    store_drop(store);
    if (now <= limit) return answer_text(outparam, 200, TEXT(""));

    static text alert;
    alert.size = 0; /* an instance may serve more than one event */
    add(&alert, room);
    add(&alert, TEXT(": "));
    add(&alert, reading);
    add(&alert, TEXT(" is above "));
    add(&alert, limit_text);
    answer_text(outparam, 200, whole(&alert));
}

static void show(handle outparam) {
    static text page;
    page.size = 0;
    result r;
    handle store = open_store();
    store_get_keys(store, &r);
    if (r.tag) __builtin_trap();
    const string *rooms = (const string *)r.word[1];
    size_t count = (size_t)r.word[2];
    for (size_t i = 0; i < count; i++) {
        size_t mark = heap_used;
        add(&page, rooms[i]);
        add(&page, TEXT(" "));
        add(&page, stored(store, rooms[i]));
        add(&page, TEXT("\n"));
        heap_used = mark;
    }
    if (!count) add(&page, TEXT("no readings yet\n"));
    store_drop(store);
    answer_text(outparam, 200, whole(&page));
}

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    /* A message comes as a CloudEvent: a POST with its topic in `ce-subject`. */
    string topic = attribute(request, TEXT("ce-subject"));
    if (topic.data)
        take(outparam, second_level(topic), read_body(request));
    else
        show(outparam);
    request_drop(request);
}
