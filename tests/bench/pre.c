/* pre LIBWASMTIME CORE.wasm COUNT: the floor for an instantiation. One pooled InstancePre of a core
 * module, its imports trapping: nanoseconds of store + instantiate + drop, one line each. */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* The C API's types are opaque here; an instance is 16 bytes. */
typedef void object;

static object *library;

static object *symbol(const char *name) {
    object *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "pre: %s: not in this libwasmtime\n", name);
        exit(1);
    }
    return found;
}

/* CALL(result type, name, (parameter types), arguments…) */
#define CALL(type, name, parameters, ...) ((type(*) parameters)symbol(#name))(__VA_ARGS__)

static void check(object *error) {
    if (!error) return;
    struct {
        size_t size;
        char *data;
    } text;
    CALL(void, wasmtime_error_message, (object *, object *), error, &text);
    fprintf(stderr, "pre: %.*s\n", (int)text.size, text.data);
    exit(1);
}

static uint64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc != 4) return 64;
    library = dlopen(argv[1], RTLD_NOW);
    FILE *file = fopen(argv[2], "rb");
    int count = atoi(argv[3]);
    if (!library || !file) {
        fprintf(stderr, "pre: cannot open %s\n", library ? argv[2] : argv[1]);
        return 1;
    }
    static char wasm[1 << 20];
    size_t size = fread(wasm, 1, sizeof(wasm), file);

    object *config = CALL(object *, wasm_config_new, (void));
    object *pool = CALL(object *, wasmtime_pooling_allocation_config_new, (void));
    CALL(void, wasmtime_pooling_allocation_config_total_memories_set, (object *, uint32_t), pool, 64);
    /* What the project's own pool has. */
    CALL(void, wasmtime_pooling_allocation_config_linear_memory_keep_resident_set,
         (object *, size_t), pool, 64 * 1024);
    CALL(void, wasmtime_pooling_allocation_strategy_set, (object *, object *), config, pool);
    object *engine = CALL(object *, wasm_engine_new_with_config, (object *), config);

    object *module = NULL, *pre = NULL;
    check(CALL(object *, wasmtime_module_new, (object *, const char *, size_t, object **), engine,
               wasm, size, &module));
    object *linker = CALL(object *, wasmtime_linker_new, (object *), engine);
    check(CALL(object *, wasmtime_linker_define_unknown_imports_as_traps, (object *, object *),
               linker, module));
    check(CALL(object *, wasmtime_linker_instantiate_pre, (object *, object *, object **), linker,
               module, &pre));

    object *(*store_new)(object *, object *, object *) = symbol("wasmtime_store_new");
    object *(*store_context)(object *) = symbol("wasmtime_store_context");
    void (*store_delete)(object *) = symbol("wasmtime_store_delete");
    object *(*instantiate)(object *, object *, object *, object **) =
        symbol("wasmtime_instance_pre_instantiate");

    uint64_t *took = calloc((size_t)count, sizeof(*took));
    for (int i = 0; i < count; i++) {
        uint64_t instance[2];
        object *trap = NULL;
        uint64_t start = nanoseconds();
        object *store = store_new(engine, NULL, NULL);
        check(instantiate(pre, store_context(store), instance, &trap));
        store_delete(store);
        took[i] = nanoseconds() - start;
    }
    for (int i = 0; i < count; i++) printf("%llu\n", (unsigned long long)took[i]);
    return 0;
}
