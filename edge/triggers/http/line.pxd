from edge.triggers.http.outbox cimport Outbox


cdef class Line:
    cdef public object _transport, _settings, _loop, _buffer, _deadlines
    cdef public Outbox _outbox
    cdef public bytes _outgoing
    cdef public int _direct
    cdef public object _client, _local, _scheme
    cdef public double input_by, output_by
    cdef public bint _reading, _congested, _at_eof, _closing, _behind
    cdef public Py_ssize_t _unsent, _ignored

    cpdef Py_ssize_t room(self) except? -1
    cpdef send(self, bytes data)
    cpdef Py_ssize_t _buffered(self) except -1
    cpdef flush(self)
    cpdef bytes _write(self, bytes data)
    cpdef _wait(self, double seconds)
    cpdef _bound_output(self)
    cpdef _close(self)
    cpdef cut(self)
