# The call that runs in an instance, on a fiber of its own.

@cython.no_gc_clear
@cython.freelist(8)
cdef class Call:
    """One call of an exported function, on a fiber of its own.

    poll() -> True: it ended, `result` holds the value; raises what ended it otherwise. False: either
    `waiting` is an awaitable whose outcome `resume` or `fail` must bring before the next poll, or it is None
    and the guest used up its time slice. Always `close`.
    """
    cdef Instance instance
    cdef LiftCode lift
    cdef void* future
    cdef void* trap
    cdef void* error
    cdef wasmtime_val_t args[MAX_FLAT]
    cdef wasmtime_val_t results[1]
    cdef wasmtime_func_t function
    cdef bint polling
    cdef readonly object result

    cdef int begin(self, Instance instance, LiftCode lift, args) except -1:
        cdef cx_t cx
        cdef wasmtime_val_raw_t raw[MAX_FLAT]
        cdef int index
        global live_calls
        memset(raw, 0, sizeof(raw))
        self.instance = instance
        self.lift = lift
        open_side(&cx, instance, lift.options)
        enter_component(<Table>cx.table)
        instance.broken = True              # until the call has ended well
        instance.busy = True                # the guest's allocator runs: nobody may close the instance
        limit_time(instance)
        edge_ticker_enter(instance.code.engine.ticker)
        try:
            lift.signature.lower_params(&cx, args, raw)
            self.function = instance.slot(lift.core).of.func
        except BaseException:
            instance.busy = False
            raise
        finally:
            edge_ticker_leave(instance.code.engine.ticker)
        for index in range(lift.param_count):
            self.args[index].kind = lift.kinds[index]
            self.args[index].of.u64 = raw[index].u64
        self.future = capi.wasmtime_func_call_async(
            instance.store_context, &self.function, self.args, lift.param_count, self.results, lift.result_count,
            &self.trap, &self.error)
        live_calls += 1
        return 0

    @property
    def waiting(self) -> object:
        return self.instance.waiting

    @property
    def ended(self) -> bool:
        return self.future == NULL

    def poll(self) -> bool:
        cdef Instance instance = self.instance
        cdef edge_ticker_t* ticker = instance.code.engine.ticker
        cdef bint done
        if self.future == NULL or self.polling:
            raise RuntimeError("the call has ended, or is being polled")
        instance.state.yielded = 0
        instance.state.on_fiber = 1
        capi.wasmtime_context_set_epoch_deadline(instance.store_context, EDGE_SLICE_TICKS)
        self.polling = True
        edge_ticker_enter(ticker)
        done = capi.wasmtime_call_future_poll(self.future)
        instance.state.on_fiber = 0
        try:
            if done:
                self.finish()
        finally:
            self.polling = False
            edge_ticker_leave(ticker)
        return done

    cdef int finish(self) except -1:
        cdef Instance instance = self.instance
        self.drop_future()
        instance.busy = True                # post-return runs: nobody may close the instance
        try:
            return self.lift_result()
        finally:
            instance.busy = False

    cdef int lift_result(self) except -1:
        cdef Instance instance = self.instance
        cdef wasmtime_val_raw_t raw[1]
        cdef cx_t cx
        error, self.error = <uint64_t>self.error, NULL
        trap, self.trap = <uint64_t>self.trap, NULL
        instance.check(<void*><uint64_t>error, <void*><uint64_t>trap)
        raw[0].u64 = self.results[0].of.u64
        limit_time(instance)
        open_side(&cx, instance, self.lift.options)
        if self.lift.signature.tracks_result:
            (<Table>cx.table).taken = []
        self.result = self.lift.signature.lift_result(&cx, raw)
        raw[0].u64 = self.results[0].of.u64
        self.lift.finish(instance, raw)
        (<Table>cx.table).taken = None
        instance.broken = False
        instance.learn()
        return 0

    def resume(self, value) -> None:
        """Brings the outcome of `waiting`."""
        self.instance.outcome = value
        self.instance.failed = False
        self.instance.state.ready = 1

    def fail(self, error) -> None:
        """Brings the exception that `waiting` ended with."""
        self.instance.outcome = error
        self.instance.failed = True
        self.instance.state.ready = 1

    cdef int drop_future(self) except -1:
        global live_calls
        if self.future == NULL:
            return 0
        future, self.future = <uint64_t>self.future, NULL
        # An unfinished fiber is unwound in here: host frames on it see a failed call and clean up.
        capi.wasmtime_call_future_delete(<void*><uint64_t>future)
        self.instance.busy = False
        live_calls -= 1
        return 0

    def close(self) -> None:
        """Ends the call if it has not ended: the guest is stopped where it is. Idempotent."""
        if self.polling:
            raise RuntimeError("a call can not be closed from inside")
        if self.future != NULL:             # else what waits is a later call's
            waiting = self.instance.waiting
            self.drop_future()
            if waiting is not None:
                waiting.close()
        discard(self.error, self.trap)
        self.error = self.trap = NULL

    def __dealloc__(self):
        self.drop_future()
