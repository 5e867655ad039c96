# The handles of one component instance: small numbers that a guest holds instead of resources.
#
# Source: CanonicalABI.md, "Table State" and "Resource State". A resource of the host is a Python object;
# a resource of a guest is the number its component gave it (its representation).

cdef enum:
    MAX_HANDLES = 16384        # of all component instances: bounds what a guest that never drops can hold
    MIN_HANDLES = 64           # of one, however many there are
    MAX_ENDED = 1024           # of them, handles that were ended and not dropped
    FREE = -1
    ENDED = -2                 # what it named was ended by the host; its type is in `rep`

cdef struct entry_t:
    PyObject* value            # the host's object, owned; NULL for a guest's resource
    uint64_t born              # order of creation
    uint32_t rep               # a guest's resource; in a free entry the next free one
    int32_t type
    uint32_t lends             # how often it is lent in calls that have not returned
    uint8_t owned


cdef class GuestHandle:
    """A resource that a guest implements, seen from outside its component.

    `owned`: whoever holds this object is the owner. Valid while its instance lives.
    """
    cdef readonly int type
    cdef readonly uint32_t rep
    cdef readonly bint owned

    @staticmethod
    cdef GuestHandle new(int type, uint32_t rep, bint owned):
        cdef GuestHandle handle = GuestHandle.__new__(GuestHandle)
        handle.type = type
        handle.rep = rep
        handle.owned = owned
        return handle


cdef class Table:
    cdef entry_t* entries
    cdef uint32_t capacity
    cdef uint32_t limit
    cdef uint32_t used          # entries ever used: [1, used) ; 0 is no handle
    cdef uint32_t free_head
    cdef readonly uint32_t live  # but those that were ended
    cdef uint32_t ended
    cdef uint64_t clock
    cdef uint32_t borrows       # borrowed handles the running call has to drop before it returns
    cdef int component
    cdef bint entered           # a call runs in this component instance
    cdef bint sealed            # the guest may not call out: it allocates or cleans up for us
    cdef list lent              # handles lent by the call that is being lifted; None: not tracked
    cdef list taken             # (resource, type) that left for a call which has not got them; None: not tracked
    cdef Code code

    def __cinit__(self, Code code, int component):
        self.code = code
        self.component = component
        self.limit = max(MIN_HANDLES, MAX_HANDLES // max(1, code.component_count))
        self.used = 1

    def __dealloc__(self):
        cdef uint32_t index
        for index in range(1, self.used):
            if self.entries[index].type != FREE:
                Py_XDECREF(self.entries[index].value)
        free(self.entries)

    cdef uint32_t add(self, int type, PyObject* value, uint32_t rep, bint owned) except 0:
        cdef uint32_t index = self.free_head
        cdef entry_t* entry
        if index:
            self.free_head = self.entries[index].rep
        else:
            if self.used >= self.capacity:
                if self.used > self.limit and owned and value != NULL:
                    self.taken = [(<object>value, type)]     # nobody else has it
                self.grow()
            index = self.used
            self.used += 1
        entry = &self.entries[index]
        Py_XINCREF(value)
        self.clock += 1
        entry.value, entry.rep, entry.type = value, rep, type
        entry.owned, entry.lends, entry.born = owned, 0, self.clock
        self.live += 1
        return index

    cdef int grow(self) except -1:
        cdef uint32_t capacity = min(max(16, 2 * self.capacity), self.limit + 1)
        cdef void* entries
        if self.used > self.limit:
            raise Trap(f"more than {self.limit} handles at once")
        entries = realloc(self.entries, capacity * sizeof(entry_t))
        if entries == NULL:
            raise MemoryError
        self.entries = <entry_t*>entries
        self.capacity = capacity
        return 0

    cdef entry_t* find(self, uint32_t handle, int type) except NULL:
        if handle == 0 or handle >= self.used or self.entries[handle].type == FREE:
            raise Trap(f"unknown handle {handle}")
        if self.entries[handle].type == ENDED:
            raise Trap(f"handle {handle} is of an event that is over")
        if self.entries[handle].type != type:
            raise Trap(f"handle {handle} is of another resource type than {self.code.resource_names[type]}")
        return &self.entries[handle]

    cdef int remove(self, uint32_t handle) except -1:
        """Frees the entry. A reference to its object stays with the caller, who owns it now."""
        cdef entry_t* entry = &self.entries[handle]
        if entry.lends:
            raise Trap(f"handle {handle} is lent and can not be given up")
        entry.type = FREE
        entry.rep = self.free_head
        self.free_head = handle
        self.live -= 1
        return 0

    cdef object take(self, uint32_t handle, int type):
        """own<R> leaves the guest."""
        cdef entry_t* entry = self.find(handle, type)
        cdef object value
        if not entry.owned:
            raise Trap(f"handle {handle} is borrowed and can not be given away")
        if entry.value == NULL:
            value = GuestHandle.new(type, entry.rep, True)
            self.remove(handle)
            return value
        value = <object>entry.value
        self.remove(handle)
        Py_DECREF(value)
        if self.taken is not None:
            self.taken.append((value, type))
        return value

    cdef object lend(self, uint32_t handle, int type):
        """borrow<R> goes out for one call."""
        cdef entry_t* entry = self.find(handle, type)
        if self.lent is not None:
            entry.lends += 1
            self.lent.append(handle)
        if entry.value == NULL:
            return GuestHandle.new(type, entry.rep, False)
        return <object>entry.value

    cdef int give(self, object value, int type, bint owned) except? 0:
        """A resource comes in: own<R>, or borrow<R> for one call."""
        cdef GuestHandle guest
        cdef PyObject* host = NULL
        cdef uint32_t rep = 0
        if self.code.definers[type] < 0:
            host = <PyObject*>value
        else:
            guest = <GuestHandle?>value
            if guest.type != type or (owned and not guest.owned):
                raise TypeError(f"not an owned {self.code.resource_names[type]}")
            rep = guest.rep
            if not owned and self.code.definers[type] == self.component:
                return rep                 # a component sees its own resource's representation
            if owned:
                guest.owned = False
        if not owned:
            self.borrows += 1
        return self.add(type, host, rep, owned)

    cdef int release(self, Instance instance, uint32_t handle, int type) except -1:
        """`resource.drop`."""
        if 0 < handle < self.used and self.entries[handle].type == ENDED and self.entries[handle].rep == <uint32_t>type:
            self.ended -= 1
            self.live += 1
            return self.remove(handle)
        cdef entry_t* entry = self.find(handle, type)
        cdef bint owned = entry.owned
        cdef uint32_t rep = entry.rep
        cdef object value = None if entry.value == NULL else <object>entry.value
        cdef bint host = entry.value != NULL
        self.remove(handle)
        if host:
            Py_DECREF(value)
        if not owned:
            self.borrows -= 1
            return 0
        if host:
            drop = self.code.drops[type]
            if drop is not None:
                drop(value)
            return 0
        return instance.destroy(self, type, rep)

    cdef int end_call(self) except -1:
        if self.borrows:
            raise Trap(f"{self.borrows} borrowed handles were not dropped before the call returned")
        return 0

    cdef int list_kept(self, list values) except -1:
        """Appends the host's resources that the guest owns."""
        cdef uint32_t index
        cdef entry_t* entry
        for index in range(1, self.used):
            entry = &self.entries[index]
            if entry.type >= 0 and entry.value != NULL and entry.owned:
                values.append(<object>entry.value)
        return 0

    cdef int end(self, object value) except -1:
        """Drops a resource that the guest still has. Its number names nothing from now on: to use it is a trap, to
        drop it is allowed, and until then it is not given to another resource.
        """
        cdef uint32_t index
        cdef entry_t* entry
        for index in range(1, self.used):
            entry = &self.entries[index]
            if entry.type < 0 or entry.value != <PyObject*>value or not entry.owned or self.ended >= MAX_ENDED:
                continue
            drop = self.code.drops[entry.type]
            entry.rep, entry.type, entry.value = entry.type, ENDED, NULL
            self.live -= 1
            self.ended += 1
            Py_DECREF(value)
            if drop is not None:
                drop(value)
        return 0

    cdef int discount(self, dict values) except -1:
        """Takes out what this table owns of `values`, which are keyed by their addresses."""
        cdef uint32_t index
        for index in range(1, self.used):
            if self.entries[index].type != FREE and self.entries[index].owned:
                values.pop(<uint64_t>self.entries[index].value, None)
        return 0

    cdef int clear(self, list failures) except -1:
        """The instance is gone: the host's resources it still owned end, newest first, also when one fails to."""
        cdef uint32_t index
        cdef list left
        if not self.live:
            return 0
        left = []
        for index in range(1, self.used):
            if self.entries[index].type != FREE and self.entries[index].value != NULL:
                left.append((self.entries[index].born, index))
        for _, number in sorted(left, reverse=True):
            index = number
            value = <object>self.entries[index].value
            drop = self.code.drops[self.entries[index].type]
            owned = self.entries[index].owned
            self.entries[index].lends = 0
            self.remove(index)
            Py_DECREF(value)
            if owned and drop is not None:
                try:
                    drop(value)
                except BaseException as error:
                    failures.append(error)
        return 0
