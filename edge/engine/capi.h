/* The part of Wasmtime's C API that edge uses, bound at run time.
 *
 * Nothing is linked at build time: edge_capi_load() fills a table of function
 * pointers by dlsym from the library that the `wasmtime` package ships, so a
 * library that lacks a symbol is a message and not a crash. Layouts are those of
 * wasmtime/{val,extern,func,instance,store,async}.h of the pinned version.
 */
#ifndef EDGE_CAPI_H
#define EDGE_CAPI_H
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct { size_t size; char *data; } wasm_name_t;
typedef struct { size_t size; void **data; } wasm_ptr_vec_t; /* any wasm_*_vec_t of pointers */
typedef struct { uint64_t store_id; void *private1; } wasmtime_func_t;
typedef struct { struct { uint64_t store_id; uint32_t private1; } a; uint32_t private2; } wasmtime_memory_t;
typedef struct { uint64_t store_id; size_t private1; } wasmtime_instance_t;
typedef union {
  int32_t i32; int64_t i64; uint32_t u32; uint64_t u64; float f32; double f64; uint8_t v128[16];
} wasmtime_val_raw_t;
typedef struct {
  uint8_t kind;
  union { int32_t i32; int64_t i64; uint64_t u64; float f32; double f64; uint64_t pad[3]; } of;
} wasmtime_val_t;
typedef struct {
  uint8_t kind;
  union { wasmtime_func_t func; wasmtime_memory_t memory; uint64_t pad[3]; } of;
} wasmtime_extern_t;
typedef struct {
  bool (*callback)(void *env);
  void *env;
  void (*finalizer)(void *env);
} wasmtime_async_continuation_t;

_Static_assert(sizeof(wasmtime_val_raw_t) == 16, "wasmtime_val_raw_t");
_Static_assert(sizeof(wasmtime_val_t) == 32, "wasmtime_val_t");
_Static_assert(sizeof(wasmtime_extern_t) == 32, "wasmtime_extern_t");

typedef void *(*edge_host_callback_t)(void *env, void *caller, wasmtime_val_raw_t *raw, size_t count);
typedef void (*edge_async_callback_t)(void *env, void *caller, const wasmtime_val_t *args, size_t nargs,
                                      wasmtime_val_t *results, size_t nresults, void **trap,
                                      wasmtime_async_continuation_t *continuation);
typedef void *(*edge_epoch_callback_t)(void *context, void *data, uint64_t *delta, uint8_t *kind);

#define EDGE_CAPI(X)                                                                                   \
  X(void *, wasm_config_new, (void))                                                                   \
  X(void, wasm_config_delete, (void *))                                                                \
  X(void *, wasm_engine_new_with_config, (void *))                                                     \
  X(void, wasm_engine_delete, (void *))                                                                \
  X(void, wasmtime_config_epoch_interruption_set, (void *, bool))                                      \
  X(void, wasmtime_config_concurrency_support_set, (void *, bool))                                     \
  X(void, wasmtime_config_async_stack_size_set, (void *, size_t))                                      \
  X(void, wasmtime_config_max_wasm_stack_set, (void *, size_t))                                        \
  X(void, wasmtime_config_parallel_compilation_set, (void *, bool))                                    \
  X(void, wasmtime_config_memory_reservation_set, (void *, uint64_t))                                  \
  X(void, wasmtime_config_memory_guard_size_set, (void *, uint64_t))                                   \
  X(void, wasmtime_config_wasm_memory64_set, (void *, bool))                                           \
  X(void, wasmtime_config_wasm_threads_set, (void *, bool))                                            \
  X(void, wasmtime_config_shared_memory_set, (void *, bool))                                           \
  X(void, wasmtime_config_wasm_gc_set, (void *, bool))                                                 \
  X(void, wasmtime_config_wasm_function_references_set, (void *, bool))                                \
  X(void, wasmtime_config_wasm_exceptions_set, (void *, bool))                                         \
  X(void, wasmtime_config_gc_support_set, (void *, bool))                                              \
  X(void *, wasmtime_config_target_set, (void *, const char *))                                        \
  X(void *, wasmtime_pooling_allocation_config_new, (void))                                            \
  X(void, wasmtime_pooling_allocation_config_delete, (void *))                                         \
  X(void, wasmtime_pooling_allocation_config_total_memories_set, (void *, uint32_t))                   \
  X(void, wasmtime_pooling_allocation_config_total_tables_set, (void *, uint32_t))                     \
  X(void, wasmtime_pooling_allocation_config_total_stacks_set, (void *, uint32_t))                     \
  X(void, wasmtime_pooling_allocation_config_total_core_instances_set, (void *, uint32_t))             \
  X(void, wasmtime_pooling_allocation_config_max_core_instance_size_set, (void *, size_t))             \
  X(void, wasmtime_pooling_allocation_config_max_tables_per_module_set, (void *, uint32_t))            \
  X(void, wasmtime_pooling_allocation_config_max_memories_per_module_set, (void *, uint32_t))          \
  X(void, wasmtime_pooling_allocation_config_table_elements_set, (void *, size_t))                     \
  X(void, wasmtime_pooling_allocation_config_max_memory_size_set, (void *, size_t))                    \
  X(void, wasmtime_pooling_allocation_config_max_unused_warm_slots_set, (void *, uint32_t))            \
  X(void, wasmtime_pooling_allocation_config_linear_memory_keep_resident_set, (void *, size_t))        \
  X(void, wasmtime_pooling_allocation_config_table_keep_resident_set, (void *, size_t))                \
  X(void, wasmtime_pooling_allocation_config_async_stack_keep_resident_set, (void *, size_t))          \
  X(void, wasmtime_pooling_allocation_strategy_set, (void *, void *))                                  \
  X(void, wasmtime_engine_increment_epoch, (void *))                                                   \
  X(void *, wasmtime_module_new, (void *, const char *, size_t, void **))                              \
  X(void, wasmtime_module_delete, (void *))                                                            \
  X(void *, wasmtime_module_serialize, (void *, wasm_name_t *))                                        \
  X(void *, wasmtime_module_deserialize_file, (void *, const char *, void **))                         \
  X(void *, wasmtime_linker_new, (void *))                                                             \
  X(void, wasmtime_linker_delete, (void *))                                                            \
  X(void *, wasmtime_linker_define_func_unchecked,                                                     \
    (void *, const char *, size_t, const char *, size_t, void *, edge_host_callback_t, void *,         \
     void (*)(void *)))                                                                                \
  X(void *, wasmtime_linker_define_async_func,                                                         \
    (void *, const char *, size_t, const char *, size_t, void *, edge_async_callback_t, void *,        \
     void (*)(void *)))                                                                                \
  X(void *, wasmtime_linker_instantiate_pre, (void *, void *, void **))                                \
  X(bool, wasmtime_linker_get,                                                                         \
    (void *, void *, const char *, size_t, const char *, size_t, wasmtime_extern_t *))                 \
  X(void, wasmtime_instance_pre_delete, (void *))                                                      \
  X(void *, wasmtime_instance_pre_instantiate, (void *, void *, wasmtime_instance_t *, void **))       \
  X(void *, wasmtime_instance_new,                                                                     \
    (void *, void *, const wasmtime_extern_t *, size_t, wasmtime_instance_t *, void **))               \
  X(bool, wasmtime_instance_export_get,                                                                \
    (void *, const wasmtime_instance_t *, const char *, size_t, wasmtime_extern_t *))                  \
  X(void, wasmtime_extern_delete, (wasmtime_extern_t *))                                               \
  X(void *, wasmtime_store_new, (void *, void *, void (*)(void *)))                                    \
  X(void, wasmtime_store_delete, (void *))                                                             \
  X(void *, wasmtime_store_context, (void *))                                                          \
  X(void, wasmtime_store_limiter, (void *, int64_t, int64_t, int64_t, int64_t, int64_t))               \
  X(void, wasmtime_store_epoch_deadline_callback,                                                      \
    (void *, edge_epoch_callback_t, void *, void (*)(void *)))                                         \
  X(void *, wasmtime_context_get_data, (void *))                                                       \
  X(void, wasmtime_context_set_epoch_deadline, (void *, uint64_t))                                     \
  X(void *, wasmtime_caller_context, (void *))                                                         \
  X(uint8_t *, wasmtime_memory_data, (void *, const wasmtime_memory_t *))                              \
  X(size_t, wasmtime_memory_data_size, (void *, const wasmtime_memory_t *))                            \
  X(void, wasmtime_global_get, (void *, const void *, wasmtime_val_t *))                               \
  X(void *, wasmtime_global_set, (void *, const void *, const wasmtime_val_t *))                       \
  X(void *, wasmtime_func_call_unchecked,                                                              \
    (void *, const wasmtime_func_t *, wasmtime_val_raw_t *, size_t, void **))                          \
  X(void *, wasmtime_func_call_async,                                                                  \
    (void *, const wasmtime_func_t *, const wasmtime_val_t *, size_t, wasmtime_val_t *, size_t,        \
     void **, void **))                                                                                \
  X(bool, wasmtime_call_future_poll, (void *))                                                         \
  X(void, wasmtime_call_future_delete, (void *))                                                       \
  X(void *, wasmtime_error_new, (const char *))                                                        \
  X(void, wasmtime_error_message, (void *, wasm_name_t *))                                             \
  X(void, wasmtime_error_delete, (void *))                                                             \
  X(void *, wasmtime_trap_new, (const char *, size_t))                                                 \
  X(bool, wasmtime_trap_code, (void *, uint8_t *))                                                     \
  X(void, wasm_trap_trace, (void *, wasm_ptr_vec_t *))                                                 \
  X(void, wasmtime_error_wasm_trace, (void *, wasm_ptr_vec_t *))                                       \
  X(void, wasm_frame_vec_delete, (wasm_ptr_vec_t *))                                                   \
  X(uint32_t, wasm_frame_func_index, (void *))                                                         \
  X(const wasm_name_t *, wasmtime_frame_func_name, (void *))                                           \
  X(void, wasm_trap_delete, (void *))                                                                  \
  X(void, wasm_byte_vec_delete, (wasm_name_t *))                                                       \
  X(void *, wasm_valtype_new, (uint8_t))                                                               \
  X(void, wasm_valtype_vec_new, (wasm_ptr_vec_t *, size_t, void **))                                   \
  X(void *, wasm_functype_new, (wasm_ptr_vec_t *, wasm_ptr_vec_t *))                                   \
  X(void, wasm_functype_delete, (void *))

typedef struct {
#define EDGE_FIELD(ret, name, args) ret(*name) args;
  EDGE_CAPI(EDGE_FIELD)
#undef EDGE_FIELD
} edge_capi_t;

static edge_capi_t capi;

/* Fills `capi`. Returns NULL, or what is missing: dlopen's message or a symbol's name. */
static inline const char *edge_capi_load(const char *path) {
  void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  if (!library) return dlerror();
#define EDGE_LOAD(ret, name, args)                                  \
  if (!(*(void **)&capi.name = dlsym(library, #name))) return #name;
  EDGE_CAPI(EDGE_LOAD)
#undef EDGE_LOAD
  return NULL;
}

/* --- time slices ------------------------------------------------------------------------------ */

/* A guest may run at least one whole tick before it has to yield, and at most two. What can not be
 * suspended (start functions, allocation, post-return) has 50 ms in all, in two halves of 12 ticks. */
enum { EDGE_TICK_NS = 2000000, EDGE_SLICE_TICKS = 2, EDGE_HALF_TICKS = 12, EDGE_MAX_HALVES = 100 };

/* Per store; its address is given to Wasmtime and so must not change while the store lives. */
typedef struct {
  uint8_t on_fiber; /* the guest runs on a fiber and may be suspended */
  uint8_t ready;    /* what the suspended guest waits for has come */
  uint8_t yielded;  /* the guest used up its slice in this poll */
  uint8_t expired;  /* the guest was stopped, because it could not be suspended */
  uint8_t halves;   /* of what it may run where it can not be suspended, passed by the clock */
  int64_t since;    /* CPU time of the thread when the first had passed, in ns */
} edge_store_t;

/* Whether the guest has had its time where it can not be suspended. The clock alone does not say:
 * on a busy machine the thread may not have run for most of it. */
static bool edge_has_had_its_time(edge_store_t *store) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  int64_t spent = now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
  if (!store->halves++) store->since = spent;
  else if (spent - store->since >= (EDGE_HALF_TICKS - 1) * EDGE_TICK_NS) return true;
  return store->halves > EDGE_MAX_HALVES;
}

/* Called by guest code that notices a passed deadline. Off the fiber nobody can yield, so the
 * guest (its start function, an allocation, post-return) is stopped instead. */
static void *edge_on_epoch(void *context, void *data, uint64_t *delta, uint8_t *kind) {
  edge_store_t *store = data;
  (void)context;
  if (!store->on_fiber) {
    *delta = EDGE_HALF_TICKS;
    *kind = 0; /* WASMTIME_UPDATE_DEADLINE_CONTINUE */
    if (!edge_has_had_its_time(store)) return NULL;
    store->expired = 1;
    return capi.wasmtime_error_new("expired");
  }
  store->yielded = 1;
  *delta = EDGE_SLICE_TICKS;
  *kind = 1; /* WASMTIME_UPDATE_DEADLINE_YIELD */
  return NULL;
}

static inline size_t edge_stack_pointer(void) { return (size_t)__builtin_frame_address(0); }

static bool edge_is_ready(void *env) { return ((edge_store_t *)env)->ready; }

/* The ticker advances the epoch while guests run and sleeps on a condition otherwise, so an idle
 * board is not woken. It is plain C: it never needs the interpreter's lock. */
typedef struct {
  void *engine;
  atomic_int running; /* guests being polled now */
  atomic_int awake;
  atomic_int stop;
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t wake;
} edge_ticker_t;

/* Staying awake for this many idle ticks spares a busy node one wake-up per event. */
enum { EDGE_IDLE_TICKS = 16 };

static void *edge_ticker_main(void *arg) {
  edge_ticker_t *t = arg;
  const struct timespec tick = {0, EDGE_TICK_NS};
  int idle = 0;
  for (;;) {
    if (idle >= EDGE_IDLE_TICKS) {
      pthread_mutex_lock(&t->lock);
      atomic_store(&t->awake, 0);
      while (!atomic_load(&t->stop) && !atomic_load(&t->running) && !atomic_load(&t->awake))
        pthread_cond_wait(&t->wake, &t->lock);
      atomic_store(&t->awake, 1);
      pthread_mutex_unlock(&t->lock);
      idle = 0;
    }
    if (atomic_load(&t->stop)) return NULL;
    nanosleep(&tick, NULL);
    capi.wasmtime_engine_increment_epoch(t->engine);
    idle = atomic_load(&t->running) ? 0 : idle + 1;
  }
}

static inline void edge_ticker_enter(edge_ticker_t *t) {
  atomic_fetch_add(&t->running, 1);
  if (atomic_load(&t->awake)) return;
  pthread_mutex_lock(&t->lock);
  atomic_store(&t->awake, 1);
  pthread_cond_signal(&t->wake);
  pthread_mutex_unlock(&t->lock);
}

static inline void edge_ticker_leave(edge_ticker_t *t) { atomic_fetch_sub(&t->running, 1); }

static inline edge_ticker_t *edge_ticker_start(void *engine) {
  edge_ticker_t *t = calloc(1, sizeof *t);
  if (!t) return NULL;
  t->engine = engine;
  atomic_store(&t->awake, 1);
  pthread_mutex_init(&t->lock, NULL);
  pthread_cond_init(&t->wake, NULL);
  sigset_t all, old;
  sigfillset(&all); /* signals belong to the interpreter's main thread */
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int failed = pthread_create(&t->thread, NULL, edge_ticker_main, t);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (!failed) return t;
  free(t);
  return NULL;
}

static inline void edge_ticker_stop(edge_ticker_t *t) {
  pthread_mutex_lock(&t->lock);
  atomic_store(&t->stop, 1);
  atomic_store(&t->awake, 1);
  pthread_cond_signal(&t->wake);
  pthread_mutex_unlock(&t->lock);
  pthread_join(t->thread, NULL);
  free(t);
}
#endif
