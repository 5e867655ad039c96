/* Prints each message; "fail" and "trap" do what they say. */
// world: on-redis
#include "wasi_http.h"

EXPORT("fermyon:spin/inbound-redis#handle-message")
result *handle_message(const char *data, size_t size) {
    static result out;
    string message = {data, size};
    if (same_text(message, TEXT("trap"))) __builtin_trap();
    out.tag = same_text(message, TEXT("fail"));
    ((uint8_t *)&out)[1] = 1; /* enum error { success, error } */
    handle printed = get_stdout();
    stream_write(printed, data, size);
    stream_write(printed, "\n", 1);
    output_drop(printed);
    return &out;
}
