# Core functions that the host gives to guests: what stands behind each import.

cdef class OptionsCode:
    """The canonical options of one lift or lower, with memory and functions as slots of the instance."""
    cdef int memory
    cdef int realloc
    cdef int post_return
    cdef int encoding
    cdef int component


cdef int open_side(cx_t* cx, Instance instance, OptionsCode options) except -1:
    cdef wasmtime_extern_t* memory
    cx.context = instance.store_context
    cx.instance = <PyObject*>instance
    cx.table = PyTuple_GET_ITEM(instance.tables, options.component)
    cx.memory = options.memory
    cx.realloc = options.realloc
    cx.encoding = options.encoding
    cx.fuel = LIFT_FUEL
    cx.base = NULL
    cx.size = 0
    if options.memory >= 0:
        refresh(cx)
    return 0


cdef int refresh(cx_t* cx) except -1:
    """The guest ran: its memory may have grown and moved."""
    cdef wasmtime_extern_t* memory = (<Instance>cx.instance).slot(cx.memory)
    cx.base = capi.wasmtime_memory_data(cx.context, &memory.of.memory)
    cx.size = capi.wasmtime_memory_data_size(cx.context, &memory.of.memory)
    return 0


cdef uint32_t allocate(cx_t* cx, uint64_t size, uint32_t align) except? 0:
    """Room in the guest's memory, by its own `realloc`."""
    cdef wasmtime_val_raw_t raw[4]
    cdef Instance instance = <Instance>cx.instance
    cdef Table table = <Table>cx.table
    if size > 0x7FFFFFFF:
        raise Trap(f"{size} bytes are too much for a guest")
    if cx.realloc < 0:
        raise Trap("the guest can not allocate: no realloc option")
    raw[0].u64 = raw[1].u64 = 0
    raw[2].u64 = align
    raw[3].u64 = size
    table.sealed = True
    instance.enter(cx.realloc, raw, 4)
    table.sealed = False
    refresh(cx)
    check_range(cx, raw[0].u32, size, align)
    return raw[0].u32


cdef class Signature:
    """A function's nodes, and how its parameters and result cross: flat or through memory."""
    cdef list params
    cdef Node result            # None: no result
    cdef int flat_params        # core values
    cdef int flat_results
    cdef Fields spilled         # parameters as one record in memory, when there are more than 16 flat ones
    cdef bint tracks_lends      # it takes owned and borrowed handles at once
    cdef bint tracks_owned      # it takes owned handles and something else, which may be wrong
    cdef bint tracks_result     # its result is owned handles and something else
    cdef bint failable          # the result is a `result`: Err is a value, not a failure

    def __init__(self, func, builder):
        cdef Node node
        cdef list types = [type_ for _, type_ in func.params]
        self.params = [builder.build(type_) for type_ in types]
        self.result = None if func.result is None else builder.build(func.result)
        self.failable = isinstance(self.result, ResultOf)
        self.flat_params = sum([(<Node>node).width for node in self.params])
        self.flat_results = 0 if self.result is None else self.result.width
        if self.flat_params > MAX_FLAT:
            self.spilled = <Fields>builder.build(wit.Tuple(tuple(types)))
            self.flat_params = 1
        self.tracks_lends = builder.owns(types) and builder.borrows(types)
        self.tracks_owned = builder.owns(types) and (len(types) > 1 or not isinstance(self.params[0], HandleOf))
        self.tracks_result = builder.owns((func.result,)) and not isinstance(self.result, HandleOf)

    cdef tuple lift_params(self, cx_t* cx, wasmtime_val_raw_t* raw, tuple first):
        """The arguments as a tuple, after those of `first` (none or one)."""
        cdef Py_ssize_t offset = len(first)
        cdef Py_ssize_t index
        cdef Node node
        cdef tuple args
        if self.spilled is not None:
            check_range(cx, raw.u32, self.spilled.size, self.spilled.align)
            args = self.spilled.load(cx, raw.u32)
            return first + args
        args = PyTuple_New(offset + len(self.params))
        if offset:
            value = first[0]
            Py_INCREF(value)
            PyTuple_SET_ITEM(args, 0, value)
        for index in range(len(self.params)):
            node = <Node>self.params[index]
            value = node.lift(cx, raw)
            Py_INCREF(value)
            PyTuple_SET_ITEM(args, offset + index, value)
            raw += node.width
        return args

    cdef int lower_params(self, cx_t* cx, object args, wasmtime_val_raw_t* raw) except -1:
        cdef Node node
        cdef uint32_t at
        cdef Py_ssize_t index = 0
        cdef tuple values = tuple(args)
        if len(values) != len(self.params):
            raise TypeError(f"{len(self.params)} arguments are needed, not {len(values)}")
        if self.spilled is not None:
            at = allocate(cx, self.spilled.size, self.spilled.align)
            self.spilled.store(cx, values, at)
            raw.u64 = at
            return 0
        for value in values:
            node = <Node>self.params[index]
            node.lower(cx, value, raw)
            raw += node.width
            index += 1
        return 0

    cdef int lower_result(self, cx_t* cx, object value, wasmtime_val_raw_t* raw) except -1:
        """The result of a lowered function: in raw[0], or where the guest's last parameter points."""
        cdef uint32_t at
        if self.result is None:
            return 0
        if self.flat_results <= 1:
            return self.result.lower(cx, value, raw)
        at = raw[self.flat_params].u32
        check_range(cx, at, self.result.size, self.result.align)
        return self.result.store(cx, value, at)

    cdef object lift_result(self, cx_t* cx, wasmtime_val_raw_t* raw):
        if self.result is None:
            return None
        if self.flat_results <= 1:
            return self.result.lift(cx, raw)
        check_range(cx, raw.u32, self.result.size, self.result.align)
        return self.result.load(cx, raw.u32)


cdef class Import:
    """What a guest's call to an imported core function does. `component`: whose handles it uses; -1: none."""
    cdef int component
    cdef readonly object params   # core types, e.g. ("i32", "i64")
    cdef readonly object results

    cdef int invoke(self, Instance instance, wasmtime_val_raw_t* raw) except -1:
        raise NotImplementedError


ctypedef int (*invoke_t)(Import, Instance, wasmtime_val_raw_t*) noexcept

cdef int invoke_import(Import target, Instance instance, wasmtime_val_raw_t* raw) except -1:
    if target.component >= 0 and (<Table>PyTuple_GET_ITEM(instance.tables, target.component)).sealed:
        raise Trap("the guest called an import while it allocated or cleaned up for its caller")
    return target.invoke(instance, raw)

# No try block around a call that may suspend its fiber: it would save the exception state of one task
# and restore it in another. So the error is fetched by hand.
cdef invoke_t invoke_checked = <invoke_t>invoke_import


cdef void* host_callback(void* env, void* caller, wasmtime_val_raw_t* raw, size_t count) noexcept:
    cdef Instance instance = <Instance>capi.wasmtime_context_get_data(capi.wasmtime_caller_context(caller))
    cdef size_t outer = instance.stack
    cdef void* trap = NULL
    instance.asked = True
    if outer == 0:
        instance.stack = edge_stack_pointer()
    if invoke_checked(<Import>env, instance, raw) != 0:
        instance.cause = take_exception()
        trap = capi.wasmtime_trap_new("host", 4)
    instance.stack = outer
    return trap


cdef class HostFunctionCode(Import):
    """canon lower of a host function."""
    cdef Signature signature
    cdef OptionsCode options
    cdef object call
    cdef bint method

    cdef int invoke(self, Instance instance, wasmtime_val_raw_t* raw) except -1:
        cdef cx_t cx
        cdef Signature signature = self.signature
        cdef list lent = None
        cdef object result
        cdef PyObject* returned
        cdef tuple args
        open_side(&cx, instance, self.options)
        if signature.flat_results > 1:     # before the host does anything: memories do not shrink
            check_range(&cx, raw[signature.flat_params].u32, signature.result.size, signature.result.align)
        if signature.tracks_lends:
            lent = (<Table>cx.table).lent = []
        if signature.tracks_owned:
            (<Table>cx.table).taken = []
        args = signature.lift_params(&cx, raw, () if self.method else instance.first)
        (<Table>cx.table).lent = (<Table>cx.table).taken = None
        returned = PyObject_Call(<PyObject*>self.call, <PyObject*>args, NULL)
        if returned == NULL:
            if not (signature.failable and PyErr_ExceptionMatches(<PyObject*>Err)):
                return -1
            result = take_exception()
        else:
            result = <object>returned
            Py_DECREF(result)
            if must_wait(result):
                result = instance.suspend(result, signature.failable)
        if lent is not None:
            end_lends(<Table>cx.table, lent)
        if signature.result is not None:
            if cx.memory >= 0:
                refresh(&cx)
            signature.lower_result(&cx, result, raw)
        return 0


cdef int end_lends(Table table, list lent) except -1:
    cdef uint32_t handle
    for handle in lent:
        table.entries[handle].lends -= 1
    return 0


cdef class CoreFunctionCode(Import):
    """A plain core function of the host (preview 1)."""
    cdef object call
    cdef int memory
    cdef tuple wide             # which parameters are i64

    cdef int invoke(self, Instance instance, wasmtime_val_raw_t* raw) except -1:
        cdef list args = [instance.first[0], Memory.new(instance, self.memory)]
        cdef Py_ssize_t index
        cdef object result
        for index in range(len(self.wide)):
            args.append(raw[index].u64 if self.wide[index] else raw[index].u32)
        result = self.call(*args)
        if must_wait(result):
            result = instance.suspend(result, False)
        if self.results:
            raw.u64 = <uint32_t>(<object>result or 0)
        return 0


cdef class MissingCode(Import):
    cdef str message

    cdef int invoke(self, Instance instance, wasmtime_val_raw_t* raw) except -1:
        raise Trap(self.message)


cdef class ResourceNewCode(Import):
    cdef int type

    cdef int invoke(self, Instance instance, wasmtime_val_raw_t* raw) except -1:
        cdef Table table = <Table>PyTuple_GET_ITEM(instance.tables, self.component)
        raw.u64 = table.add(self.type, NULL, raw.u32, True)
        return 0


cdef class ResourceRepCode(Import):
    cdef int type

    cdef int invoke(self, Instance instance, wasmtime_val_raw_t* raw) except -1:
        cdef Table table = <Table>PyTuple_GET_ITEM(instance.tables, self.component)
        raw.u64 = table.find(raw.u32, self.type).rep
        return 0


cdef class ResourceDropCode(Import):
    cdef int type

    cdef int invoke(self, Instance instance, wasmtime_val_raw_t* raw) except -1:
        cdef Table table = <Table>PyTuple_GET_ITEM(instance.tables, self.component)
        return table.release(instance, raw.u32, self.type)


cdef class LiftCode:
    """canon lift: a guest function that can be called from outside its component."""
    cdef Signature signature
    cdef OptionsCode options
    cdef int core               # slot of the core function
    cdef uint8_t[MAX_FLAT] kinds  # wasmtime_valkind_t of its parameters
    cdef int param_count
    cdef int result_count

    cdef int finish(self, Instance instance, wasmtime_val_raw_t* raw) except -1:
        """The result has been lifted: post-return frees it, with the flat results as its arguments."""
        cdef Table table = <Table>PyTuple_GET_ITEM(instance.tables, self.options.component)
        table.end_call()
        if self.options.post_return >= 0:
            table.sealed = True
            instance.enter(self.options.post_return, raw, 1)
            table.sealed = False
        table.entered = False
        return 0


cdef class GuestFunctionCode(Import):
    """canon lower of another component's lifted function: a lift and a lower."""
    cdef Signature signature
    cdef OptionsCode options
    cdef LiftCode target

    cdef int invoke(self, Instance instance, wasmtime_val_raw_t* raw) except -1:
        cdef cx_t caller
        cdef cx_t callee
        cdef wasmtime_val_raw_t flat[MAX_FLAT]
        cdef wasmtime_val_raw_t kept
        cdef LiftCode target = self.target
        cdef list lent
        cdef object value
        memset(flat, 0, sizeof(flat))
        open_side(&caller, instance, self.options)
        open_side(&callee, instance, target.options)
        enter_component(<Table>callee.table)
        lent = (<Table>caller.table).lent = []
        (<Table>caller.table).taken = []
        args = self.signature.lift_params(&caller, raw, ())
        (<Table>caller.table).lent = None
        target.signature.lower_params(&callee, args, flat)
        (<Table>caller.table).taken = None
        args = None
        instance.enter(target.core, flat, MAX_FLAT)
        kept = flat[0]
        if target.options.memory >= 0:
            refresh(&callee)
        callee.fuel = LIFT_FUEL
        (<Table>callee.table).taken = []
        value = target.signature.lift_result(&callee, flat)
        flat[0] = kept
        target.finish(instance, flat)
        end_lends(<Table>caller.table, lent)
        if caller.memory >= 0:
            refresh(&caller)
        self.signature.lower_result(&caller, value, raw)
        (<Table>callee.table).taken = None
        return 0


cdef int enter_component(Table table) except -1:
    if table.entered:
        raise Trap("a component can not be called while a call into it has not returned")
    table.entered = True
    return 0
