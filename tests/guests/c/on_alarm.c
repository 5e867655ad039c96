// world: on-message
/* The benchmark's function as Spin's own MQTT handler: an error when "21.5" is above 25. */
#define HEAP_SIZE (32 * 1024)
#include "wasi_http.h"

EXPORT("handle-message")
result *handle_message(const char *data, size_t size, const char *topic, size_t topic_size) {
    static result out;
    (void)topic, (void)topic_size;
    heap_reset();
    out = (result){0};
    if (parse_number(data, data + size) < 25) return &out;
    out.tag = 1;              /* the error … */
    ((uint8_t *)&out)[4] = 0; /* … is other(string) */
    out.word[2] = (int32_t)(uintptr_t)data;
    out.word[3] = (int32_t)size;
    return &out;
}
