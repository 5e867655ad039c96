# An instance that served its event becomes what it was when it was made, so that the next one finds a fresh one.
#
# Wasmtime does as much with a memory between two instances; here core instances, their tables and their imports stay
# as well, which nothing changes. A Python guest has 14 of them with 2,700 imports, and copies 350 pages of its image.

from weakref import ref

cdef extern from "<string.h>" nogil:
    int memcmp(const void*, const void*, size_t)

cdef enum:
    MADV_DONTNEED = 4           # of a private mapping: the next access finds what is mapped
    LOST_MAX = 16
    RENEWALS = 1000             # of one instance: Wasmtime may keep something for each call
    # Of pages that others do not write: nobody can stop the kernel on the way. A store that is deleted has one call
    # for all of its memory.
    RUNS_MAX = 64
    OTHERS_MAX = 1024
    CALM = 16                   # events after which a page that none of them changed is the image's again
    DIFFERS = 255               # what the image has there is something else


cdef uint64_t global_value(wasmtime_val_t* value) noexcept:
    """Its bits: numbers of 32 bits leave the others as they are."""
    return value.of.u64 & 0xFFFFFFFF if value.kind == 0 or value.kind == 2 else value.of.u64


cdef class Birth:
    """What instances of one Code are when they are made: pages that are not the image's, and globals.

    Held by these instances, gone with the last. `limit`: the memory they may have.
    """
    cdef object __weakref__
    cdef uint32_t* pages        # in rising order
    cdef uint8_t* bytes         # of these pages
    cdef uint8_t* calm          # for how many events nobody changed each of them
    cdef uint64_t* values       # of the globals that code sets
    cdef Py_ssize_t count
    cdef uint64_t size          # of the memory
    cdef uint64_t page
    cdef int64_t limit

    cdef bint take(self, Instance instance, int64_t limit) except -1:
        """Whether a new instance could be remembered."""
        cdef WorkingSet learned = instance.code.working_set
        cdef uint8_t* base = instance.memory_base()
        cdef uint64_t* entries
        cdef Py_ssize_t total, index
        self.size, self.page, self.limit = instance.memory_size(), learned.page, limit
        total = self.size // self.page
        entries = instance.code.engine.pagemap.read(base, total)
        if entries == NULL:
            return False
        self.pages = <uint32_t*>malloc((total + 1) * sizeof(uint32_t))
        for index in range(total):
            if is_own(entries[index]) or learned.usual(index):
                self.pages[self.count] = index
                self.count += 1
        if self.count * self.page > BROUGHT_MAX:
            return False
        self.bytes = <uint8_t*>malloc(self.count * self.page + 1)
        self.calm = <uint8_t*>calloc(self.count + 1, 1)
        for index in range(self.count):
            memcpy(self.bytes + index * self.page, base + self.pages[index] * self.page, self.page)
        self.values = <uint64_t*>malloc((len(instance.code.globals) + 1) * sizeof(uint64_t))
        for index in range(len(instance.code.globals)):
            self.values[index] = instance.global_bits(instance.code.globals[index])
        return True

    cdef bint fits(self, Instance instance, int64_t limit) except -1:
        """Whether a new instance is the same in every byte."""
        cdef uint8_t* base = instance.memory_base()
        cdef uint64_t* entries
        cdef Py_ssize_t index, known = 0
        if instance.memory_size() != self.size or limit != self.limit:
            return False
        entries = instance.code.engine.pagemap.read(base, self.size // self.page)
        if entries == NULL:
            return False
        for index in range(<Py_ssize_t>(self.size // self.page)):
            if known < self.count and self.pages[known] == <uint32_t>index:
                if memcmp(base + index * self.page, self.bytes + known * self.page, self.page):
                    return False
                known += 1
            elif is_own(entries[index]) and index * self.page >= instance.code.working_set.kept:
                return False        # below, a slot of the pool keeps pages that it has reset
        for index in range(len(instance.code.globals)):
            if self.values[index] != instance.global_bits(instance.code.globals[index]):
                return False
        return True

    cdef bint cheap(self, uint64_t* entries) noexcept:
        """Whether the pages that are neither the image's nor remembered are few, and lie together."""
        cdef Py_ssize_t index, known = 0, runs = 0, others = 0
        cdef bint inside = False
        for index in range(<Py_ssize_t>(self.size // self.page)):
            if known < self.count and self.pages[known] == <uint32_t>index:
                known += 1
                inside = False
            elif is_own(entries[index]):
                others += 1
                runs += not inside
                inside = True
            else:
                inside = False
        return runs <= RUNS_MAX and others <= OTHERS_MAX

    cdef bint restore(self, Instance instance) except -1:
        """Gives memory and globals back what they were. Whether that could be done, within a slice."""
        cdef uint8_t* base = instance.memory_base()
        cdef uint64_t* entries
        cdef Py_ssize_t total = self.size // self.page
        cdef Py_ssize_t index, known = 0, start = -1
        if instance.memory_size() != self.size:
            return False            # memories do not shrink
        entries = instance.code.engine.pagemap.read(base, total)
        if entries == NULL or not self.cheap(entries):
            return False
        for index in range(total + 1):
            if index < total and known < self.count and self.pages[known] == <uint32_t>index:
                if is_own(entries[index]):
                    self.give_back(base, known)
                known += 1
            elif index < total and is_own(entries[index]):
                if start < 0:
                    start = index
                continue
            if start >= 0:
                if madvise(base + start * self.page, (index - start) * self.page, MADV_DONTNEED) != 0:
                    return False
                start = -1
        for index in range(len(instance.code.globals)):
            if instance.global_bits(instance.code.globals[index]) != self.values[index]:
                instance.set_global(instance.code.globals[index], self.values[index])
        return True

    cdef int give_back(self, uint8_t* base, Py_ssize_t known) noexcept:
        """A pool's slot has pages of its own where guests write nothing: comparing them takes longer than the guest."""
        cdef uint8_t* page = base + self.pages[known] * self.page
        cdef uint8_t* before = self.bytes + known * self.page
        cdef uint8_t* calm = self.calm + known
        if memcmp(page, before, self.page):
            memcpy(page, before, self.page)
            calm[0] = DIFFERS if calm[0] == DIFFERS else 0
        elif calm[0] != DIFFERS:
            calm[0] += 1
            if calm[0] == CALM:
                calm[0] = 0
                self.let_go(page, before, calm)
        return 0

    cdef int let_go(self, uint8_t* page, const uint8_t* before, uint8_t* calm) noexcept:
        if madvise(page, self.page, MADV_DONTNEED) != 0:
            calm[0] = DIFFERS
        elif memcmp(page, before, self.page):
            memcpy(page, before, self.page)
            calm[0] = DIFFERS
        else:
            madvise(page, self.page, MADV_DONTNEED)     # looking at it has brought a page of zeros
        return 0

    def __dealloc__(self):
        free(self.pages)
        free(self.bytes)
        free(self.calm)
        free(self.values)
