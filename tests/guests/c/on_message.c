/* Prints each message; the last level of its topic may ask for a failure. */
// world: on-message
#include "wasi_http.h"

EXPORT("handle-message")
result *handle_message(const char *data, size_t size, const char *topic, size_t topic_size) {
    static result out;
    out = (result){0};
    const char *end = topic + topic_size, *level = end;
    while (level > topic && level[-1] != '/') level--;
    string last = {level, (size_t)(end - level)};
    if (same_text(last, TEXT("trap"))) __builtin_trap();
    if (same_text(last, TEXT("loop")))
        for (volatile int i = 0;; i++) {}
    if (same_text(last, TEXT("sleep"))) pollable_block(clock_subscribe_duration(10 * 1000 * 1000));
    if (same_text(last, TEXT("fail"))) {
        static const char why[] = "this reading is\n no reading";
        out.tag = 1;                          /* the error … */
        ((uint8_t *)&out)[4] = 0;             /* … is other(string) */
        out.word[2] = (int32_t)(uintptr_t)why;
        out.word[3] = sizeof(why) - 1;
        return &out;
    }
    handle printed = get_stdout();
    stream_write(printed, topic, topic_size);
    stream_write(printed, ": ", 2);
    stream_write(printed, data, size);
    stream_write(printed, "\n", 1);
    output_drop(printed);
    return &out;
}
