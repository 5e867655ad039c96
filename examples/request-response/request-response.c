/* Degrees Fahrenheit in, degrees Celsius out. Who asks by MQTT names the topic of the answer in its
 * message; who asks by HTTP posts the number and reads the response: the handler is the same. */
#define HEAP_SIZE (32 * 1024)
#include "../spin.h"

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    string body = read_body(request);
    request_drop(request);

    bool negative = body.size && body.data[0] == '-';
    const char *at = body.data + negative, *end = body.data + body.size;
    for (const char *c = at; c < end; c++)
        if (*c < '0' || *c > '9') return answer_text(outparam, 400, TEXT("not a whole number"));
    if (at == end || end - at > 6) return answer_text(outparam, 400, TEXT("not a whole number"));

    int32_t fahrenheit = (int32_t)parse_number(at, end);
    int32_t tenths = ((negative ? -fahrenheit : fahrenheit) - 32) * 50;
    tenths = (tenths + (tenths < 0 ? -4 : 4)) / 9; /* rounded */
    char digits[16], *last = digits + sizeof(digits);
    uint32_t size = (uint32_t)(tenths < 0 ? -tenths : tenths);
    *--last = (char)('0' + size % 10);
    *--last = '.';
    last = format_number(last, size / 10);
    if (tenths < 0) *--last = '-';
    answer_text(outparam, 200, (string){last, (size_t)(digits + sizeof(digits) - last)});
}
