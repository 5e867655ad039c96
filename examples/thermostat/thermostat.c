// world: platform
/* Keeps the last temperature of each room, and says so when one becomes too warm.
 *
 * One handler serves both triggers of spin.toml. A message comes as a CloudEvent: a POST with the
 * topic in `ce-subject` and the reading as its body; what is answered is published to reply_topic,
 * an empty answer publishes nothing. A plain request shows every room. */
#define HEAP_SIZE (32 * 1024)
#include "../spin.h"

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

static void take_reading(handle outparam, string topic, string reading) {
    string room = second_level(topic), limit_text = variable(TEXT("limit"));
    int32_t now, before, limit;
    /* 4xx is final: nobody retries what will never be a temperature */
    if (!parse_reading(reading, &now)) return answer_text(outparam, 400, TEXT("not a temperature"));
    if (!parse_reading(limit_text, &limit)) __builtin_trap();

    handle store = open_store();
    bool was_warm = parse_reading(stored(store, room), &before) && before > limit;
    put(store, room, reading);
    store_drop(store);
    if (was_warm == (now > limit)) return answer_text(outparam, 200, TEXT(""));

    static text alert;
    alert.size = 0; /* an instance may serve more than one event */
    add(&alert, room);
    add(&alert, TEXT(": "));
    add(&alert, reading);
    add(&alert, now > limit ? TEXT(" is above ") : TEXT(" is no longer above "));
    add(&alert, limit_text);
    answer_text(outparam, 200, whole(&alert));
}

static void show_rooms(handle outparam) {
    static text page;
    page.size = 0;
    result r;
    handle store = open_store();
    store_get_keys(store, &r);
    const string *rooms = (const string *)r.word[1];
    size_t count = r.tag ? 0 : (size_t)r.word[2];
    for (size_t i = 0; i < count; i++) {
        size_t mark = heap_used;
        add(&page, rooms[i]);
        add(&page, TEXT(" "));
        add(&page, stored(store, rooms[i]));
        add(&page, TEXT("\n"));
        heap_used = mark;
    }
    if (!count) add(&page, TEXT("no readings yet\n"));
    answer_text(outparam, 200, whole(&page));
}

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    string topic = attribute(request, TEXT("ce-subject"));
    if (topic.data)
        take_reading(outparam, topic, read_body(request));
    else
        show_rooms(outparam);
    request_drop(request);
}
