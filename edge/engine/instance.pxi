# Instances: one sandbox each.

cdef inline void limit_time(Instance instance) noexcept:
    """What follows can not be suspended: start functions, allocation, post-return."""
    instance.state.halves = 0
    capi.wasmtime_context_set_epoch_deadline(instance.store_context, EDGE_HALF_TICKS)


@cython.no_gc_clear
@cython.freelist(8)
cdef class Instance:
    """A component instance: a store, its core instances, its handles.

    Not for two calls at once. After a trap or a cancelled call it is `broken`: only `close` is allowed.
    `context`, given to `create`, is what host functions get as their first argument.
    """
    cdef edge_store_t state
    cdef void* store
    cdef void* store_context
    cdef readonly Code code
    cdef tuple first            # the context, as the arguments of a host function begin
    cdef wasmtime_instance_t* instances
    cdef wasmtime_extern_t* slots
    cdef uint8_t* known         # which slots have been looked up
    cdef readonly tuple tables
    cdef size_t stack           # address where the outermost host function that runs has its frame; 0: none runs
    cdef object cause           # the exception of a host function, on its way to the caller
    cdef readonly object waiting
    cdef wasmtime_func_t wait   # suspends the fiber; looked up when it is first needed
    cdef object outcome
    cdef bint failed
    cdef Birth birth            # None: it can not be renewed
    cdef int renewals
    cdef bint asked             # the guest called out: what it is depends on more than its code
    cdef readonly bint broken
    cdef bint busy

    @staticmethod
    def create(Code code, object context, int64_t memory_limit) -> Instance:
        """Instantiates. `memory_limit`: bytes of all memories together; one of n memories gets an nth.

        Raises Trap when a start function traps or a memory is larger than the limit to begin with, MemoryError
        when the pool has no place.
        """
        cdef Instance self = Instance.__new__(Instance)
        global live_stores
        self.code = code
        self.first = (context,)
        self.store = capi.wasmtime_store_new(code.engine.engine, <void*>self, NULL)
        self.store_context = capi.wasmtime_store_context(self.store)
        live_stores += 1
        capi.wasmtime_store_limiter(
            self.store, memory_limit // max(1, code.memories), code.table_elements, -1, -1, -1)
        capi.wasmtime_store_epoch_deadline_callback(self.store, edge_on_epoch, &self.state, NULL)
        limit_time(self)
        self.tables = tuple([Table(code, component) for component in range(code.component_count)])
        self.instances = <wasmtime_instance_t*>calloc(code.instance_count + 1, sizeof(wasmtime_instance_t))
        self.slots = <wasmtime_extern_t*>malloc(code.item_count * sizeof(wasmtime_extern_t))
        self.known = <uint8_t*>calloc(code.item_count, 1)
        edge_ticker_enter(code.engine.ticker)
        try:
            self.link()
            self.born(memory_limit)
        except BaseException:
            self.close()
            raise
        finally:
            edge_ticker_leave(code.engine.ticker)
        return self

    cdef int link(self) except -1:
        cdef StepCode step
        cdef Py_ssize_t number = 0
        cdef void* error
        cdef void* trap
        for step in self.code.steps:
            trap = NULL
            if step.pre != NULL:
                error = capi.wasmtime_instance_pre_instantiate(
                    step.pre, self.store_context, &self.instances[number], &trap)
                self.check(error, trap)
            else:
                self.link_array(step, &self.instances[number])
            number += 1
        if self.code.working_set is not None and self.code.working_set.count:
            self.code.working_set.bring(self.memory_base(), self.memory_size())
        for slot in self.code.initializers:
            self.enter(slot, NULL, 0)
        return 0

    cdef int born(self, int64_t limit) except -1:
        """Remembers what a new instance is, where it can be made so again."""
        cdef Code code = self.code
        cdef Birth birth
        if not code.renewable or self.asked or code.working_set.left:
            return 0
        birth = None if code.birth is None else code.birth()
        if birth is None:
            birth = Birth()
            code.renewable = birth.take(self, limit)
            code.birth = ref(birth)
            self.birth = birth if code.renewable else None
        elif birth.fits(self, limit):
            self.birth = birth
        return 0

    def renew(self, context) -> bool:
        """Makes the instance what it was when it was created, with another context; drops what it owned.

        False: that can not be done, or is not certain; it has to be closed then, as after an exception.
        """
        birth, self.birth = self.birth, None
        if birth is None or self.broken or self.busy or self.store == NULL or self.renewals >= RENEWALS:
            return False
        self.drop_owned()
        if not birth.restore(self):
            self.code.note_lost(self.renewals)
            return False
        self.birth = birth
        self.renewals += 1
        self.code.lost = 0
        self.first = (context,)
        self.tables = tuple([Table(self.code, component) for component in range(self.code.component_count)])
        return True

    cdef uint8_t* memory_base(self) except NULL:
        cdef wasmtime_extern_t* memory = self.slot(self.code.memory_slot)
        return capi.wasmtime_memory_data(self.store_context, &memory.of.memory)

    cdef uint64_t memory_size(self) except? 0:
        cdef wasmtime_extern_t* memory = self.slot(self.code.memory_slot)
        return capi.wasmtime_memory_data_size(self.store_context, &memory.of.memory)

    cdef uint64_t global_bits(self, int slot) except? 0:
        cdef wasmtime_val_t value
        capi.wasmtime_global_get(self.store_context, &self.slot(slot).of, &value)
        return global_value(&value)

    cdef int set_global(self, int slot, uint64_t bits) except -1:
        cdef wasmtime_val_t value
        cdef wasmtime_extern_t* item = self.slot(slot)
        capi.wasmtime_global_get(self.store_context, &item.of, &value)      # for its type
        value.of.u64 = bits
        check(capi.wasmtime_global_set(self.store_context, &item.of, &value))
        return 0

    cdef int learn(self) except -1:
        """Which pages invocations write, while that is not known."""
        cdef WorkingSet pages = self.code.working_set
        if pages is not None and pages.left:
            pages.sample(self.code.engine.pagemap, self.memory_base(), self.memory_size())
        return 0

    cdef int link_array(self, StepCode step, wasmtime_instance_t* instance) except -1:
        cdef wasmtime_extern_t* items = <wasmtime_extern_t*>malloc((step.count + 1) * sizeof(wasmtime_extern_t))
        cdef Py_ssize_t index
        cdef void* trap = NULL
        cdef void* error
        try:
            for index in range(step.count):
                if step.sources[index] < 0:
                    items[index] = self.imported(-1 - step.sources[index])[0]
                else:
                    items[index] = self.slot(step.sources[index])[0]
            error = capi.wasmtime_instance_new(
                self.store_context, step.module.module, items, step.count, instance, &trap)
            return self.check(error, trap)
        finally:
            free(items)

    cdef wasmtime_extern_t* imported(self, int number) except NULL:
        """This store's copy of a host function; kept behind the slots, since several modules import it."""
        cdef Py_ssize_t index = self.code.slot_count + number
        cdef bytes name
        if not self.known[index]:
            name = <bytes>self.code.import_names[number]
            if not capi.wasmtime_linker_get(
                    self.code.linker, self.store_context, b"edge", 4, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name),
                    &self.slots[index]):
                raise SystemError(f"import {number} is not linked")
            self.known[index] = 1
        return &self.slots[index]

    cdef wasmtime_extern_t* slot(self, int number) except NULL:
        cdef slot_t* source
        if not self.known[number]:
            source = &self.code.slots[number]
            if self.instances[source.instance].store_id == 0:
                raise Trap("a start function called out before its component was complete")
            if not capi.wasmtime_instance_export_get(
                    self.store_context, &self.instances[source.instance], source.name, source.length,
                    &self.slots[number]):
                raise SystemError(f"a core module lacks its export {source.name[:source.length]!r}")
            self.known[number] = 1
        return &self.slots[number]

    cdef int check(self, void* error, void* trap) except -1:
        """Raises what ended a call into the guest: a host function's exception, or the guest's own trap."""
        if error == NULL and trap == NULL:
            return 0
        self.broken = True
        cause, self.cause = self.cause, None
        if cause is not None:
            discard(error, trap)
            raise cause
        if self.state.expired:
            discard(error, trap)
            raise Trap("ran too long where it can not be suspended")
        message = take_ending(error, trap)
        if message.startswith("maximum concurrent"):
            raise MemoryError(f"the pool is full: {message}")
        if message.startswith("mmap failed"):
            raise MemoryError(f"there are no addresses left: {message.splitlines()[0]}")
        raise Trap(message)

    cdef int enter(self, int slot, wasmtime_val_raw_t* raw, size_t count) except -1:
        """Calls a core function of the guest, nested in whatever runs now."""
        cdef void* trap = NULL
        cdef void* error
        cdef wasmtime_extern_t* item = self.slot(slot)
        # Wasmtime gives each call into a guest the whole of its stack again, however deep the fiber is by now.
        if self.stack and self.stack - edge_stack_pointer() > self.code.stack_room:
            raise Trap("call stack exhausted: guest and host call each other too deeply")
        error = capi.wasmtime_func_call_unchecked(self.store_context, &item.of.func, raw, count, &trap)
        return self.check(error, trap)

    cdef int destroy(self, Table table, int type, uint32_t rep) except -1:
        """Runs a guest's destructor."""
        cdef wasmtime_val_raw_t raw[1]
        cdef int slot = self.code.destructors[type]
        cdef Table definer
        if slot < 0:
            return 0
        definer = <Table>self.tables[self.code.definers[type]]
        if definer is not table:
            enter_component(definer)
        raw[0].u64 = rep
        self.enter(slot, raw, 1)
        if definer is not table:
            definer.entered = False
        return 0

    cdef object suspend(self, object awaitable, bint failable):
        """Waits, on the fiber, until `resume` brings the outcome of `awaitable`.

        An Err is returned as a value when the function has a result for it.
        """
        cdef wasmtime_extern_t item
        cdef void* trap = NULL
        cdef void* error
        if not self.state.on_fiber:
            awaitable.close()
            raise Trap("the guest may not wait here: its start function or its allocator called a function that blocks")
        if self.wait.store_id == 0:         # once: each look-up leaves a copy in the store
            if not capi.wasmtime_linker_get(self.code.linker, self.store_context, b"edge", 4, b"wait", 4, &item):
                awaitable.close()
                raise SystemError("wait is not linked")
            self.wait = item.of.func
        self.waiting = awaitable
        self.state.ready = 0
        error = capi.wasmtime_func_call_unchecked(self.store_context, &self.wait, NULL, 0, &trap)
        self.waiting = None
        if error != NULL or trap != NULL:
            discard(error, trap)
            raise Trap("cancelled")
        outcome, self.outcome = self.outcome, None
        if self.failed and not (failable and isinstance(outcome, Err)):
            raise outcome
        return outcome

    def export(self, str name) -> int:
        """The number of an exported function. Raises KeyError."""
        return self.code.plan.exports[name]

    def call(self, int export, args) -> Call:
        """Begins a call of an exported function; nothing runs before `Call.poll`.

        Arguments that need the guest's memory are written now, within 50 ms of guest time.
        """
        cdef Call call = Call.__new__(Call)
        if self.broken or self.busy or self.store == NULL:
            raise RuntimeError("the instance is broken, busy or closed")
        call.begin(self, self.code.lift(export), args)
        return call

    @property
    def handles(self) -> int:
        """Live handles of all component instances; 0 is what a clean invocation leaves."""
        return sum([(<Table>table).live for table in self.tables])

    def kept(self) -> list:
        """The host's resources that the guest still has."""
        cdef Table table
        cdef list values = []
        for table in self.tables:
            table.list_kept(values)
        return values

    def end(self, values) -> None:
        """Between two calls: ends those of the host's resources `values` that the guest still has.

        Their handles stay, as names of nothing; where there are too many of those already, the resource does.
        """
        cdef Table table
        if self.broken or self.busy:
            raise RuntimeError("the instance is broken or busy")
        for table in self.tables:
            for value in values:
                table.end(value)

    cdef int drop_taken(self) except -1:
        """Ends the host's resources that were lost on their way, when something else in their call was wrong."""
        cdef Table table
        cdef dict lost = {}
        for table in self.tables:
            for value, type in table.taken or ():
                lost[<uint64_t><PyObject*>value] = value, self.code.drops[type]
            table.taken = None
        if not lost:
            return 0
        for table in self.tables:
            table.discount(lost)
        for value, drop in lost.values():
            if drop is not None:
                drop(value)
        return 0

    def close(self) -> None:
        """Ends the instance: drops what it owned, frees the store. Idempotent; not during a call."""
        global live_stores
        if self.store == NULL:
            return
        if self.busy:
            raise RuntimeError("a call is running: close it first")
        store, self.store = <uint64_t>self.store, NULL
        try:
            self.drop_owned()
        finally:
            self.first = ()
            capi.wasmtime_store_delete(<void*><uint64_t>store)
            live_stores -= 1

    cdef int drop_owned(self) except -1:
        """Ends the host's resources that the guest still has, also when one fails to end."""
        cdef Table table
        failures = []
        self.drop_taken()
        for table in reversed(self.tables):
            table.clear(failures)
        if failures:
            raise failures[0]
        return 0

    def __dealloc__(self):
        global live_stores
        if self.store != NULL:
            capi.wasmtime_store_delete(self.store)
            live_stores -= 1
        free(self.instances)
        free(self.slots)
        free(self.known)
