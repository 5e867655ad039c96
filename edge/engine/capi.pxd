"""Declarations of capi.h for Cython. Functions are called through the table `capi`."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "capi.h":
    ctypedef struct wasm_name_t:
        size_t size
        char* data
    ctypedef struct wasm_ptr_vec_t:
        size_t size
        void** data
    ctypedef struct wasmtime_func_t:
        uint64_t store_id
    ctypedef struct wasmtime_memory_t:
        pass
    ctypedef struct wasmtime_instance_t:
        uint64_t store_id
    ctypedef union wasmtime_val_raw_t:
        int32_t i32
        int64_t i64
        uint32_t u32
        uint64_t u64
        float f32
        double f64
    ctypedef union edge_val_of:
        int32_t i32
        int64_t i64
        uint64_t u64
        float f32
        double f64
    ctypedef struct wasmtime_val_t:
        uint8_t kind
        edge_val_of of
    ctypedef union edge_extern_of:
        wasmtime_func_t func
        wasmtime_memory_t memory
    ctypedef struct wasmtime_extern_t:
        uint8_t kind
        edge_extern_of of
    ctypedef struct wasmtime_async_continuation_t:
        bint (*callback)(void*) noexcept
        void* env
        void (*finalizer)(void*) noexcept
    ctypedef void* (*edge_host_callback_t)(void*, void*, wasmtime_val_raw_t*, size_t) noexcept
    ctypedef void (*edge_async_callback_t)(void*, void*, const wasmtime_val_t*, size_t, wasmtime_val_t*,
                                           size_t, void**, wasmtime_async_continuation_t*) noexcept
    ctypedef void* (*edge_epoch_callback_t)(void*, void*, uint64_t*, uint8_t*) noexcept
    ctypedef struct edge_store_t:
        uint8_t on_fiber
        uint8_t ready
        uint8_t yielded
        uint8_t expired
        uint8_t halves
    ctypedef struct edge_ticker_t:
        pass
    enum:
        EDGE_SLICE_TICKS
        EDGE_HALF_TICKS
        EDGE_TICK_NS

    const char* edge_capi_load(const char*)
    void* edge_on_epoch(void*, void*, uint64_t*, uint8_t*) noexcept
    bint edge_is_ready(void*) noexcept
    size_t edge_stack_pointer() noexcept
    edge_ticker_t* edge_ticker_start(void*)
    void edge_ticker_stop(edge_ticker_t*) nogil
    void edge_ticker_enter(edge_ticker_t*)
    void edge_ticker_leave(edge_ticker_t*)

    ctypedef struct edge_capi_t:
        void* (*wasm_config_new)() noexcept
        void (*wasm_config_delete)(void*) noexcept
        void* (*wasm_engine_new_with_config)(void*) noexcept
        void (*wasm_engine_delete)(void*) noexcept
        void (*wasmtime_config_epoch_interruption_set)(void*, bint) noexcept
        void (*wasmtime_config_concurrency_support_set)(void*, bint) noexcept
        void (*wasmtime_config_async_stack_size_set)(void*, size_t) noexcept
        void (*wasmtime_config_max_wasm_stack_set)(void*, size_t) noexcept
        void (*wasmtime_config_parallel_compilation_set)(void*, bint) noexcept
        void (*wasmtime_config_memory_reservation_set)(void*, uint64_t) noexcept
        void (*wasmtime_config_memory_guard_size_set)(void*, uint64_t) noexcept
        void (*wasmtime_config_wasm_memory64_set)(void*, bint) noexcept
        void (*wasmtime_config_wasm_threads_set)(void*, bint) noexcept
        void (*wasmtime_config_shared_memory_set)(void*, bint) noexcept
        void (*wasmtime_config_wasm_gc_set)(void*, bint) noexcept
        void (*wasmtime_config_wasm_function_references_set)(void*, bint) noexcept
        void (*wasmtime_config_wasm_exceptions_set)(void*, bint) noexcept
        void (*wasmtime_config_gc_support_set)(void*, bint) noexcept
        void* (*wasmtime_config_target_set)(void*, const char*) noexcept
        void* (*wasmtime_pooling_allocation_config_new)() noexcept
        void (*wasmtime_pooling_allocation_config_delete)(void*) noexcept
        void (*wasmtime_pooling_allocation_config_total_memories_set)(void*, uint32_t) noexcept
        void (*wasmtime_pooling_allocation_config_total_tables_set)(void*, uint32_t) noexcept
        void (*wasmtime_pooling_allocation_config_total_stacks_set)(void*, uint32_t) noexcept
        void (*wasmtime_pooling_allocation_config_total_core_instances_set)(void*, uint32_t) noexcept
        void (*wasmtime_pooling_allocation_config_max_core_instance_size_set)(void*, size_t) noexcept
        void (*wasmtime_pooling_allocation_config_max_tables_per_module_set)(void*, uint32_t) noexcept
        void (*wasmtime_pooling_allocation_config_max_memories_per_module_set)(void*, uint32_t) noexcept
        void (*wasmtime_pooling_allocation_config_table_elements_set)(void*, size_t) noexcept
        void (*wasmtime_pooling_allocation_config_max_memory_size_set)(void*, size_t) noexcept
        void (*wasmtime_pooling_allocation_config_max_unused_warm_slots_set)(void*, uint32_t) noexcept
        void (*wasmtime_pooling_allocation_config_linear_memory_keep_resident_set)(void*, size_t) noexcept
        void (*wasmtime_pooling_allocation_config_table_keep_resident_set)(void*, size_t) noexcept
        void (*wasmtime_pooling_allocation_config_async_stack_keep_resident_set)(void*, size_t) noexcept
        void (*wasmtime_pooling_allocation_strategy_set)(void*, void*) noexcept
        void* (*wasmtime_module_new)(void*, const char*, size_t, void**) noexcept nogil
        void (*wasmtime_module_delete)(void*) noexcept
        void* (*wasmtime_module_serialize)(void*, wasm_name_t*) noexcept
        void* (*wasmtime_module_deserialize_file)(void*, const char*, void**) noexcept
        void* (*wasmtime_linker_new)(void*) noexcept
        void (*wasmtime_linker_delete)(void*) noexcept
        void* (*wasmtime_linker_define_func_unchecked)(
            void*, const char*, size_t, const char*, size_t, void*, edge_host_callback_t, void*,
            void (*)(void*) noexcept) noexcept
        void* (*wasmtime_linker_define_async_func)(
            void*, const char*, size_t, const char*, size_t, void*, edge_async_callback_t, void*,
            void (*)(void*) noexcept) noexcept
        void* (*wasmtime_linker_instantiate_pre)(void*, void*, void**) noexcept
        bint (*wasmtime_linker_get)(
            void*, void*, const char*, size_t, const char*, size_t, wasmtime_extern_t*) noexcept
        void (*wasmtime_instance_pre_delete)(void*) noexcept
        void* (*wasmtime_instance_pre_instantiate)(void*, void*, wasmtime_instance_t*, void**) noexcept
        void* (*wasmtime_instance_new)(
            void*, void*, const wasmtime_extern_t*, size_t, wasmtime_instance_t*, void**) noexcept
        bint (*wasmtime_instance_export_get)(
            void*, const wasmtime_instance_t*, const char*, size_t, wasmtime_extern_t*) noexcept
        void (*wasmtime_extern_delete)(wasmtime_extern_t*) noexcept
        void* (*wasmtime_store_new)(void*, void*, void (*)(void*) noexcept) noexcept
        void (*wasmtime_store_delete)(void*) noexcept
        void* (*wasmtime_store_context)(void*) noexcept
        void (*wasmtime_store_limiter)(void*, int64_t, int64_t, int64_t, int64_t, int64_t) noexcept
        void (*wasmtime_store_epoch_deadline_callback)(
            void*, edge_epoch_callback_t, void*, void (*)(void*) noexcept) noexcept
        void* (*wasmtime_context_get_data)(void*) noexcept
        void (*wasmtime_context_set_epoch_deadline)(void*, uint64_t) noexcept
        void* (*wasmtime_caller_context)(void*) noexcept
        uint8_t* (*wasmtime_memory_data)(void*, const wasmtime_memory_t*) noexcept
        size_t (*wasmtime_memory_data_size)(void*, const wasmtime_memory_t*) noexcept
        void (*wasmtime_global_get)(void*, const void*, wasmtime_val_t*) noexcept
        void* (*wasmtime_global_set)(void*, const void*, const wasmtime_val_t*) noexcept
        void* (*wasmtime_func_call_unchecked)(
            void*, const wasmtime_func_t*, wasmtime_val_raw_t*, size_t, void**) noexcept
        void* (*wasmtime_func_call_async)(
            void*, const wasmtime_func_t*, const wasmtime_val_t*, size_t, wasmtime_val_t*, size_t,
            void**, void**) noexcept
        bint (*wasmtime_call_future_poll)(void*) noexcept
        void (*wasmtime_call_future_delete)(void*) noexcept
        void* (*wasmtime_error_new)(const char*) noexcept
        void (*wasmtime_error_message)(void*, wasm_name_t*) noexcept
        void (*wasmtime_error_delete)(void*) noexcept
        void* (*wasmtime_trap_new)(const char*, size_t) noexcept
        bint (*wasmtime_trap_code)(void*, uint8_t*) noexcept
        void (*wasm_trap_trace)(void*, wasm_ptr_vec_t*) noexcept
        void (*wasmtime_error_wasm_trace)(void*, wasm_ptr_vec_t*) noexcept
        void (*wasm_frame_vec_delete)(wasm_ptr_vec_t*) noexcept
        uint32_t (*wasm_frame_func_index)(void*) noexcept
        const wasm_name_t* (*wasmtime_frame_func_name)(void*) noexcept
        void (*wasm_trap_delete)(void*) noexcept
        void (*wasm_byte_vec_delete)(wasm_name_t*) noexcept
        void* (*wasm_valtype_new)(uint8_t) noexcept
        void (*wasm_valtype_vec_new)(wasm_ptr_vec_t*, size_t, void**) noexcept
        void* (*wasm_functype_new)(wasm_ptr_vec_t*, wasm_ptr_vec_t*) noexcept
        void (*wasm_functype_delete)(void*) noexcept
    edge_capi_t capi
