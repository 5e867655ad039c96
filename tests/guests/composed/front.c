/* Answers "hello NAME, this is front", with the words said by another component. */
#include "wasi_http.h"

#define GREETINGS "edge:guests/greetings"

IMPORT(GREETINGS, "[constructor]greeter")
handle greeter_new(const char *prefix, size_t);
IMPORT(GREETINGS, "[method]greeter.greet")
void greeter_greet(handle, const char *name, size_t, result *);
IMPORT(GREETINGS, "[resource-drop]greeter")
void greeter_drop(handle);
IMPORT(GREETINGS, "reverse")
void reverse(const string *, size_t, result *);

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    result r;
    string path = request_path(request);
    request_drop(request);

    handle first = greeter_new("hello ", 6), second = greeter_new("this is ", 8);
    string said[3];
    greeter_greet(second, "front", 5, &r);
    said[0] = (string){(const char *)r.word[0], (size_t)r.word[1]};
    said[1] = TEXT(", ");
    greeter_greet(first, path.data, path.size, &r);
    said[2] = (string){(const char *)r.word[0], (size_t)r.word[1]};
    greeter_drop(second);
    greeter_drop(first);
    reverse(said, 3, &r);

    handle headers = fields_new();
    answer a = answer_start(outparam, 200, headers);
    const string *words = (const string *)r.word[0];
    for (int32_t i = 0; i < r.word[1]; i++) stream_write(a.stream, words[i].data, words[i].size);
    answer_finish(a);
}
