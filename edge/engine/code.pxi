# A component made ready to be instantiated: linked once, instantiated for each event.

_KINDS = ("i32", "i64", "f32", "f64")      # in the order of Wasmtime's value kinds


cdef void wait_callback(void* env, void* caller, const wasmtime_val_t* args, size_t nargs, wasmtime_val_t* results,
                        size_t nresults, void** trap, wasmtime_async_continuation_t* continuation) noexcept:
    """The one asynchronous core function: suspends the fiber until the instance's state says ready."""
    cdef Instance instance = <Instance>capi.wasmtime_context_get_data(capi.wasmtime_caller_context(caller))
    continuation.callback = edge_is_ready
    continuation.env = &instance.state
    continuation.finalizer = NULL


cdef void* core_functype(params, results) except NULL:
    cdef wasm_ptr_vec_t vectors[2]
    cdef void* types[64]
    cdef int side
    cdef Py_ssize_t index
    for side, names in enumerate((params, results)):
        if len(names) > 64:
            raise ValueError("a core function with more than 64 parameters or results")
        for index, name in enumerate(names):
            types[index] = capi.wasm_valtype_new(_KINDS.index(name))
        capi.wasm_valtype_vec_new(&vectors[side], len(names), types)
    return capi.wasm_functype_new(&vectors[0], &vectors[1])


cdef struct slot_t:
    const char* name
    size_t length
    int instance


@cython.no_gc_clear
cdef class Code:
    """A plan with its modules compiled and its imports bound: what instances are made of. Immutable.

    Raises ValueError when a module does not fit what the plan says of it.
    """
    cdef readonly object plan
    cdef readonly Engine engine
    cdef readonly list modules
    cdef readonly list resource_names     # number of a resource type -> its name, for messages
    cdef list imports                     # Import objects: Wasmtime holds their addresses
    cdef list lifts
    cdef list drops                       # number of a resource type -> drop function of the host, or None
    cdef list destructors                 # ... -> slot of the guest's destructor, or -1
    cdef int* definers                    # ... -> component instance that implements it; -1: the host
    cdef void* linker                     # every import by its number, and "wait"
    cdef list steps                       # one for each core instance
    cdef list import_names                # how `linker` calls each import
    cdef list slot_names                  # (core instance, export name) of each slot
    cdef dict slot_numbers
    cdef Py_ssize_t slot_count
    cdef Py_ssize_t item_count            # slots, then imports: what an instance looks up once
    cdef Py_ssize_t instance_count
    cdef int component_count
    cdef WorkingSet working_set           # of the only memory; None: there are none or several
    cdef int memory_slot
    cdef list globals                     # slots of those that code sets
    cdef bint renewable                   # nothing but they and the memory can change
    cdef int lost                         # instances in a row that could not be renewed even once
    cdef object birth                     # a reference to it that does not hold it; None: there was none yet
    cdef int64_t table_elements           # of one table, at most
    cdef size_t stack_room                # how far below the outermost host function a guest may be called
    cdef slot_t* slots                    # slot_names, for the path of an event
    cdef list initializers
    cdef readonly int memories            # linear memories in all
    cdef readonly int tables              # tables in all

    def __init__(self, plan, list modules, bindings):
        """`modules`: the plan's, compiled. `bindings`: what the host gives, see edge.engine.component.Bindings."""
        if not modules:
            raise ValueError("there is no core module in it, so nothing to run")
        builder = Builder()
        self.plan = plan
        self.modules = modules
        self.engine = (<Module>modules[0]).engine
        self.memories = bindings.memories
        self.tables = bindings.tables
        self.imports = []
        self.slot_names = []
        self.slot_numbers = {}
        self.lifts = [self._lift(lift, builder) for lift in plan.lifts]
        for number, trampoline in enumerate(plan.trampolines):
            self.imports.append(self._import(trampoline, number, builder, bindings))
        self._resources(builder, bindings)
        self.initializers = [self.slot(item) for item in plan.initialize]
        self.globals = [self.slot(item) for item in plan.globals or ()]
        self._link(bindings)
        self.slot_count = len(self.slot_names)
        # Modules that link through a prepared instance do not look up their imports one by one.
        arrays = any([(<StepCode>step).pre == NULL for step in self.steps])
        self.item_count = self.slot_count + (len(self.imports) if arrays else 0) + 1
        self.instance_count = len(plan.instances)
        self.component_count = plan.components
        self.table_elements = self.engine.options.table_elements
        self.stack_room = max(
            0, self.engine.options.fiber_stack - 2 * self.engine.options.wasm_stack - self.engine.options.host_stack)
        self._index_slots()
        self.memory_slot = self._memory_slot()
        if self.memories == 1 and self.memory_slot >= 0 and self.engine.options.slots:
            self.working_set = WorkingSet(self.engine.options.memory_keep)
            self.renewable = plan.globals is not None

    cdef int slot(self, item) except -2:
        """The number of a core item that instances look up by name."""
        if item is None:
            return -1
        key = (item.instance, item.name.encode())
        if key not in self.slot_numbers:
            self.slot_numbers[key] = len(self.slot_names)
            self.slot_names.append(key)
        return self.slot_numbers[key]

    def _options(self, options, component):
        cdef OptionsCode code = OptionsCode()
        code.memory = self.slot(options.memory)
        code.realloc = self.slot(options.realloc)
        code.post_return = self.slot(options.post_return)
        code.encoding = _ENCODINGS[options.encoding]
        code.component = component
        return code

    def _lift(self, lift, builder):
        cdef LiftCode code = LiftCode()
        code.signature = Signature(lift.func, builder)
        code.options = self._options(lift.options, lift.component)
        code.core = self.slot(lift.core)
        params, results = wit.core_signature(lift.func, "lift")
        code.param_count = len(params)
        for index, name in enumerate(params):
            code.kinds[<int>index] = _KINDS.index(name)
        code.result_count = len(results)
        return code

    def _import(self, trampoline, number, builder, bindings):
        cdef Import code = _IMPORTS[type(trampoline)](self, trampoline, builder, bindings)
        code.component = getattr(trampoline, "component", -1)
        code.params, code.results = bindings.core_type(number)
        return code

    def _host_call(self, trampoline, builder, bindings):
        cdef HostFunctionCode code = HostFunctionCode()
        function = bindings.function(trampoline)
        code.signature = Signature(trampoline.func, builder)
        code.options = self._options(trampoline.options, trampoline.component)
        code.call = function.call
        code.method = function.kind == "method"
        return code

    def _guest_call(self, trampoline, builder, bindings):
        cdef GuestFunctionCode code = GuestFunctionCode()
        code.target = self.lifts[trampoline.lift]
        code.signature = code.target.signature
        code.options = self._options(trampoline.options, trampoline.component)
        return code

    def _core_host(self, trampoline, builder, bindings):
        cdef CoreFunctionCode code = CoreFunctionCode()
        function = bindings.core_function(trampoline)
        code.call = function.call
        code.wide = tuple([letter == "I" for letter in function.params])
        code.memory = self.slot(bindings.memory)
        return code

    def _missing(self, trampoline, builder, bindings):
        cdef MissingCode code = MissingCode()
        code.message = f"this host has no {trampoline.name} of {trampoline.module}"
        return code

    def _resource_new(self, trampoline, builder, bindings):
        cdef ResourceNewCode code = ResourceNewCode()
        code.type = builder.number(trampoline.resource)
        return code

    def _resource_rep(self, trampoline, builder, bindings):
        cdef ResourceRepCode code = ResourceRepCode()
        code.type = builder.number(trampoline.resource)
        return code

    def _resource_drop(self, trampoline, builder, bindings):
        cdef ResourceDropCode code = ResourceDropCode()
        code.type = builder.number(trampoline.resource)
        return code

    def _resources(self, builder, bindings):
        cdef Py_ssize_t count = len(builder.numbers)
        self.definers = <int*>malloc((count + 1) * sizeof(int))
        self.resource_names = [None] * count
        self.drops = [None] * count
        self.destructors = [-1] * count
        for resource, number in builder.numbers.items():
            if isinstance(resource, wit.DefinedResource):
                guest = self.plan.resources[resource.id]
                self.definers[<int>number] = guest.component
                self.destructors[number] = self.slot(guest.destructor)
                self.resource_names[number] = f"resource {resource.id}"
            else:
                self.definers[<int>number] = -1
                self.drops[number] = bindings.drop(resource)
                self.resource_names[number] = f"{resource.interface}/{resource.name}"

    def _link(self, bindings):
        cdef void* functype = core_functype((), ())
        self.linker = capi.wasmtime_linker_new(self.engine.engine)
        error = capi.wasmtime_linker_define_async_func(
            self.linker, b"edge", 4, b"wait", 4, functype, wait_callback, NULL, NULL)
        capi.wasm_functype_delete(functype)
        check(error)
        self.import_names = [str(number).encode() for number in range(len(self.imports))]
        for name, target in zip(self.import_names, self.imports):
            define(self.linker, b"edge", name, <Import>target)
        self.steps = [self._step(instance, bindings.import_names(instance.module)) for instance in self.plan.instances]

    def _step(self, instance, names):
        cdef StepCode step = StepCode()
        cdef Py_ssize_t index
        step.module = self.modules[instance.module]
        targets = [getattr(item, "index", None) for item in instance.imports]
        if None not in targets and len(set(names)) == len(names):
            step.prepare(self, names, targets)
            return step
        step.count = len(instance.imports)
        step.sources = <int*>malloc((step.count + 1) * sizeof(int))
        for index, item in enumerate(instance.imports):
            # Negative: an import by number. Otherwise a slot, which is an earlier instance's export.
            step.sources[index] = -1 - item.index if hasattr(item, "index") else self.slot(item)
        return step

    def _memory_slot(self):
        """Any slot that names a memory; -1: nothing uses one."""
        cdef int slot = -1
        for lift in self.lifts:
            slot = max(slot, (<LiftCode>lift).options.memory)
        for target in self.imports:
            if isinstance(target, HostFunctionCode):
                slot = max(slot, (<HostFunctionCode>target).options.memory)
        return slot

    def _index_slots(self):
        cdef Py_ssize_t number
        cdef bytes name
        self.slots = <slot_t*>malloc((self.slot_count + 1) * sizeof(slot_t))
        for number in range(self.slot_count):
            instance, name = self.slot_names[number]
            self.slots[number].instance = instance
            self.slots[number].name = PyBytes_AS_STRING(name)      # the list keeps it alive
            self.slots[number].length = PyBytes_GET_SIZE(name)

    cdef void note_lost(self, int renewals) noexcept:
        """A guest whose memory grows in every invocation is not worth remembering."""
        self.lost += renewals == 0
        if self.lost >= LOST_MAX:
            self.renewable = False

    cdef LiftCode lift(self, Py_ssize_t number):
        if not 0 <= number < len(self.lifts):
            raise IndexError(f"no export has the number {number}")
        return <LiftCode>self.lifts[number]

    def __dealloc__(self):
        if self.linker != NULL:
            capi.wasmtime_linker_delete(self.linker)
        free(self.definers)
        free(self.slots)


_IMPORTS = {
    HostCall: Code._host_call, GuestCall: Code._guest_call, CoreHost: Code._core_host, Missing: Code._missing,
    ResourceNew: Code._resource_new, ResourceRep: Code._resource_rep, ResourceDrop: Code._resource_drop,
}


cdef int check(void* error) except -1:
    if error != NULL:
        raise ValueError(take_error(error))
    return 0


cdef int define(void* linker, bytes module, bytes name, Import target) except -1:
    cdef void* functype = core_functype(target.params, target.results)
    cdef void* error = capi.wasmtime_linker_define_func_unchecked(
        linker, module, len(module), name, len(name), functype, host_callback, <void*>target, NULL)
    capi.wasm_functype_delete(functype)
    return check(error)


@cython.no_gc_clear
cdef class StepCode:
    """How one core instance is made: from an InstancePre when its imports are all the host's, else from an array."""
    cdef Module module
    cdef void* linker
    cdef void* pre
    cdef int* sources
    cdef Py_ssize_t count

    cdef int prepare(self, Code code, names, targets) except -1:
        self.linker = capi.wasmtime_linker_new(code.engine.engine)
        for (module, name), number in zip(names, targets):
            define(self.linker, module.encode(), name.encode(), <Import>code.imports[number])
        return check(capi.wasmtime_linker_instantiate_pre(self.linker, self.module.module, &self.pre))

    def __dealloc__(self):
        if self.pre != NULL:
            capi.wasmtime_instance_pre_delete(self.pre)
        if self.linker != NULL:
            capi.wasmtime_linker_delete(self.linker)
        free(self.sources)
