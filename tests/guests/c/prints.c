/* Prints N blocks of 4096 bytes, then answers: "/words/N" lines of words, "/newlines/N" nothing but
   ends of lines, "/binary/N" every byte there is, "/lineless/N" no end at all, "/escapes/1" what
   would control a terminal. */
#include "wasi_http.h"

static char block[4096];

static char byte_of(string path, size_t i) {
    if (starts_with(path, TEXT("/newlines"))) return '\n';
    if (starts_with(path, TEXT("/binary"))) return (char)(i * 7 + i / 256);
    if (starts_with(path, TEXT("/words"))) return i % 64 == 63 ? '\n' : i % 8 == 7 ? ' ' : 'w';
    return 'x';
}

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    string path = path_in_route(request);
    request_drop(request);
    const char *end = path.data + path.size, *number = end;
    while (number > path.data && number[-1] >= '0' && number[-1] <= '9') number--;
    uint32_t blocks = parse_number(number, end);
    handle stream = get_stdout();
    if (starts_with(path, TEXT("/escapes"))) {
        string text = TEXT("\x1b]0;owned\x07\x1b[31mred\r2026 edge: forged\n<script>alert(1)</script>\n");
        stream_write(stream, text.data, text.size);
        blocks = 0;
    }
    for (size_t i = 0; i < sizeof(block); i++) block[i] = byte_of(path, i);
    for (uint32_t i = 0; i < blocks; i++) stream_write(stream, block, sizeof(block));
    answer_text(outparam, 200, TEXT("printed"));
}
