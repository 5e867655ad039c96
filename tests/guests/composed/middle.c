/* Exports edge:guests/greetings: a resource of its own, strings, lists. */
#include "wasi_http.h"

#define GREETINGS "edge:guests/greetings"

IMPORT("[export]" GREETINGS, "[resource-new]greeter")
handle greeter_handle(int32_t representation);

typedef struct {
    string prefix;
    bool used;
} greeter;

static greeter greeters[8];
static result returned;

EXPORT(GREETINGS "#[constructor]greeter")
handle greeter_new(const char *data, size_t size) {
    for (int32_t i = 0; i < 8; i++)
        if (!greeters[i].used) {
            greeters[i] = (greeter){{data, size}, true};
            return greeter_handle(i);
        }
    __builtin_trap();
}

EXPORT(GREETINGS "#[dtor]greeter")
void greeter_destroy(int32_t i) { greeters[i].used = false; }

EXPORT(GREETINGS "#[method]greeter.greet")
result *greeter_greet(int32_t i, const char *name, size_t size) {
    string prefix = greeters[i].prefix;
    char *text = cabi_realloc(NULL, 0, 1, prefix.size + size);
    __builtin_memcpy(text, prefix.data, prefix.size);
    __builtin_memcpy(text + prefix.size, name, size);
    returned.word[0] = (int32_t)text;
    returned.word[1] = (int32_t)(prefix.size + size);
    return &returned;
}

/* Called when the caller has read the result. */
EXPORT("cabi_post_" GREETINGS "#[method]greeter.greet")
void greeter_greet_done(result *r) { r->word[1] = 0; }

EXPORT(GREETINGS "#reverse")
result *reverse(const string *names, size_t count) {
    string *reversed = cabi_realloc(NULL, 0, 4, count * sizeof(string));
    for (size_t i = 0; i < count; i++) reversed[i] = names[count - 1 - i];
    returned.word[0] = (int32_t)reversed;
    returned.word[1] = (int32_t)count;
    return &returned;
}
