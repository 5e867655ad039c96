# The engine and compiled modules.

cdef class Engine:
    """Wasmtime's engine: its pool and the ticker that ends time slices.

    `options`: the integers that edge.engine.pool computed; see there. The pool must fit the address space:
    Wasmtime aborts the process otherwise.
    """
    cdef void* engine
    cdef edge_ticker_t* ticker
    cdef Pagemap pagemap
    cdef readonly object options

    def __init__(self, options):
        cdef void* config = capi.wasm_config_new()
        cdef void* pool
        cdef void* error
        self.options = options
        self.pagemap = Pagemap()
        capi.wasmtime_config_epoch_interruption_set(config, True)
        capi.wasmtime_config_concurrency_support_set(config, False)
        # Shared memory and memory64 have other pointer rules than the ABI code here checks; garbage
        # collected heaps would need a pool of their own.
        capi.wasmtime_config_wasm_threads_set(config, False)
        capi.wasmtime_config_shared_memory_set(config, False)
        capi.wasmtime_config_wasm_memory64_set(config, False)
        capi.wasmtime_config_wasm_gc_set(config, False)
        capi.wasmtime_config_wasm_function_references_set(config, False)
        capi.wasmtime_config_wasm_exceptions_set(config, False)
        capi.wasmtime_config_gc_support_set(config, False)
        if options.target:
            error = capi.wasmtime_config_target_set(config, <bytes>options.target.encode())
            if error != NULL:
                capi.wasm_config_delete(config)
                raise ValueError(take_error(error))
        capi.wasmtime_config_max_wasm_stack_set(config, options.wasm_stack)
        capi.wasmtime_config_async_stack_size_set(config, options.fiber_stack)
        if options.slots:
            pool = capi.wasmtime_pooling_allocation_config_new()
            capi.wasmtime_pooling_allocation_config_total_memories_set(pool, options.slots)
            capi.wasmtime_pooling_allocation_config_total_stacks_set(pool, options.stacks)
            capi.wasmtime_pooling_allocation_config_total_core_instances_set(pool, options.core_instances)
            capi.wasmtime_pooling_allocation_config_max_core_instance_size_set(pool, options.core_instance_size)
            capi.wasmtime_pooling_allocation_config_total_tables_set(pool, options.tables)
            capi.wasmtime_pooling_allocation_config_max_tables_per_module_set(pool, options.tables_per_module)
            capi.wasmtime_pooling_allocation_config_max_memories_per_module_set(pool, options.memories_per_module)
            capi.wasmtime_pooling_allocation_config_table_elements_set(pool, options.table_elements)
            capi.wasmtime_pooling_allocation_config_max_memory_size_set(pool, options.max_memory)
            capi.wasmtime_pooling_allocation_config_max_unused_warm_slots_set(pool, options.warm_slots)
            capi.wasmtime_pooling_allocation_config_linear_memory_keep_resident_set(pool, options.memory_keep)
            capi.wasmtime_pooling_allocation_config_table_keep_resident_set(pool, options.table_keep)
            capi.wasmtime_pooling_allocation_config_async_stack_keep_resident_set(pool, options.stack_keep)
            capi.wasmtime_pooling_allocation_strategy_set(config, pool)
            capi.wasmtime_pooling_allocation_config_delete(pool)
        self.engine = capi.wasm_engine_new_with_config(config)
        self.ticker = edge_ticker_start(self.engine)
        if self.ticker == NULL:
            raise MemoryError("no thread for the ticker")

    def __dealloc__(self):
        if self.ticker != NULL:
            edge_ticker_stop(self.ticker)
        if self.engine != NULL:
            capi.wasm_engine_delete(self.engine)


@cython.no_gc_clear
cdef class Module:
    """A compiled core module."""
    cdef void* module
    cdef readonly Engine engine

    @staticmethod
    def compile(Engine engine, bytes wasm) -> Module:
        """Compiles `wasm`; takes seconds for large modules. Raises ValueError with Wasmtime's message."""
        cdef Module self = Module.__new__(Module)
        cdef void* error
        cdef void* handle = engine.engine
        cdef const char* data = wasm
        cdef size_t size = len(wasm)
        with nogil:
            error = capi.wasmtime_module_new(handle, data, size, &self.module)
        self.engine = engine
        if error != NULL:
            raise ValueError(take_error(error))
        return self

    @staticmethod
    def map(Engine engine, str path) -> Module:
        """Maps code that `serialize` wrote. The file must be this node's own: it is native code."""
        cdef Module self = Module.__new__(Module)
        cdef bytes encoded = path.encode()
        cdef void* error = capi.wasmtime_module_deserialize_file(engine.engine, encoded, &self.module)
        self.engine = engine
        if error != NULL:
            raise ValueError(take_error(error))
        return self

    def serialize(self) -> bytes:
        """The compiled code, for `map` by the same Wasmtime with the same options on the same CPU."""
        cdef wasm_name_t data
        cdef void* error = capi.wasmtime_module_serialize(self.module, &data)
        if error != NULL:
            raise ValueError(take_error(error))
        try:
            return PyBytes_FromStringAndSize(data.data, data.size)
        finally:
            capi.wasm_byte_vec_delete(&data)

    def __dealloc__(self):
        if self.module != NULL:
            capi.wasmtime_module_delete(self.module)
