# Pages that every invocation of a guest writes, brought in with one call for each run of them.
#
# A fresh memory is the module's image, copied page by page as the guest writes. A page fault costs a few
# microseconds and a Python guest takes 350 of them; asking for the same pages at once halves that. Which pages
# those are is learned from the first invocations.

cdef extern from "<sys/mman.h>" nogil:
    int madvise(void*, size_t, int)

cdef enum:
    MADV_POPULATE_WRITE = 23    # Linux 5.14
    SAMPLES = 3                 # a page counts when all of them wrote it
    GAP = 2                     # pages between two runs: fewer, and one call for both is cheaper
    BROUGHT_MAX = 8 << 20       # bytes: nobody can stop the kernel on the way, and a guest would yield

cdef struct run_t:
    uint64_t offset
    uint64_t length


cdef class WorkingSet:
    """The pages of one memory that invocations write, beyond what a pool slot keeps resident."""
    cdef run_t* runs
    cdef Py_ssize_t count
    cdef int left               # samples to take
    cdef bytearray written      # a byte for each page: in how many samples it was written
    cdef uint64_t page
    cdef uint64_t kept

    def __cinit__(self, uint64_t kept):
        self.left = SAMPLES
        self.page = PAGE_SIZE
        self.kept = kept

    cdef int bring(self, uint8_t* base, uint64_t size) noexcept:
        """Makes the pages of a fresh memory present. Where the kernel can not, nothing is lost."""
        cdef Py_ssize_t index
        cdef run_t* run
        for index in range(self.count):
            run = &self.runs[index]
            if run.offset + run.length > size:
                break
            if madvise(base + run.offset, run.length, MADV_POPULATE_WRITE) != 0:
                self.count = 0
                break
        return 0

    cdef bint usual(self, Py_ssize_t index) noexcept:
        """Whether invocations write that page."""
        return self.written is not None and index < len(self.written) and self.written[index] == SAMPLES

    cdef int sample(self, Pagemap pagemap, uint8_t* base, uint64_t size) except -1:
        """Looks at a memory whose invocation is over."""
        cdef Py_ssize_t pages = min(<Py_ssize_t>(size // self.page), SAMPLED_MAX)
        cdef Py_ssize_t index
        cdef uint64_t* entries = pagemap.read(base, pages)
        self.left -= 1
        if entries == NULL:
            self.left = 0
            return 0
        if self.written is None:
            self.written = bytearray(pages)
        pages = min(pages, len(self.written))
        for index in range(pages):
            if is_own(entries[index]):
                self.written[index] += 1
        if not self.left:
            self.settle(pages)
        return 0

    cdef int settle(self, Py_ssize_t pages) except -1:
        cdef Py_ssize_t index
        cdef Py_ssize_t start = -1
        cdef Py_ssize_t end = -1
        cdef uint64_t room = BROUGHT_MAX
        self.runs = <run_t*>malloc((pages + 1) * sizeof(run_t))
        for index in range(self.kept // self.page, pages + 1):
            if index < pages and self.written[index] == SAMPLES:
                if start < 0:
                    start = index
                end = index + 1
            elif start >= 0 and (index == pages or index - end >= GAP):
                self.runs[self.count].offset = start * self.page
                self.runs[self.count].length = min((end - start) * self.page, room)
                room -= self.runs[self.count].length
                self.count += 1
                start = -1
                if not room:
                    break
        return 0

    def __dealloc__(self):
        free(self.runs)
