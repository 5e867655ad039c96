# Which pages of a guest's memory are copies of its own: those that something wrote.

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int, void*, size_t, int64_t)
    int c_close "close"(int)
    int getpid()

cdef extern from "<fcntl.h>" nogil:
    int c_open "open"(const char*, int)
    int O_RDONLY
    int O_CLOEXEC

cdef enum:
    SAMPLED_MAX = 1 << 15       # pages of a memory that is looked at: 128 MiB of small ones

cdef uint64_t PAGE_PRESENT = <uint64_t>1 << 63
cdef uint64_t PAGE_SWAPPED = <uint64_t>1 << 62
cdef uint64_t PAGE_OF_FILE = <uint64_t>1 << 61


cdef inline bint is_own(uint64_t entry) noexcept:
    """Not a page of the module's image, and not one that nobody touched."""
    return entry & (PAGE_PRESENT | PAGE_SWAPPED) and not entry & PAGE_OF_FILE


cdef class Pagemap:
    """The kernel's word on the pages of this process. Source: proc_pid_pagemap(5)."""
    cdef int file
    cdef int process            # whose pages `file` speaks of: it stays the parent's after a fork
    cdef bytearray entries

    cdef uint64_t* read(self, uint8_t* base, Py_ssize_t pages) except? NULL:
        """An entry for each page from `base`, until the next call; NULL: the kernel does not say."""
        cdef ssize_t size = pages * 8
        if pages > SAMPLED_MAX:
            return NULL
        if self.entries is None or len(self.entries) < size:
            self.entries = bytearray(size)
        if self.process != getpid():
            self.drop()
            self.file = c_open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)
            self.process = getpid()
        if pread(self.file, <char*>self.entries, size, <uint64_t>base // <uint64_t>PAGE_SIZE * 8) != size:
            return NULL
        return <uint64_t*><char*>self.entries

    cdef void drop(self) noexcept:
        if self.process and self.file >= 0:
            c_close(self.file)

    def __dealloc__(self):
        self.drop()
