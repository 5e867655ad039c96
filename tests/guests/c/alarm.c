/* The benchmark's function: reads "21.5" and answers it when it is above 25, by nothing otherwise. */
#define HEAP_SIZE (32 * 1024)
#include "spin.h"

HANDLER handle_request(handle request, handle outparam) {
    heap_reset();
    string reading = read_body(request);
    request_drop(request);
    bool warm = parse_number(reading.data, reading.data + reading.size) >= 25;
    answer_text(outparam, 200, warm ? reading : TEXT(""));
}
