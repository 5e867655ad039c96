/* Prints the time of each tick. */
// world: on-tick
#include "wasi_http.h"

EXPORT("handle-cron-event") result *handle_tick(uint64_t timestamp) {
    static result out;
    char text[24];
    char *end = text + sizeof(text);
    *--end = '\n';
    char *at = format_number(end, timestamp);
    handle printed = get_stdout();
    stream_write(printed, "tick ", 5);
    stream_write(printed, at, (size_t)(end + 1 - at));
    output_drop(printed);
    return &out;
}
