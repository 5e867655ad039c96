cdef class RequestParser:
    cdef public object _settings, _llhttp, _fault, _host, authority, body, keep_alive, method, phase, target
    cdef public bytes _connection, _known_host, _seen, _tail, _url
    cdef public str _known_authority
    cdef public list _fields, headers
    cdef public bint _chunked, _completed, _framed, _headed, _upgraded, expects, old
    cdef public object _left, received
    cdef public Py_ssize_t _unframed

    cpdef reset(self)
    cpdef Py_ssize_t feed(self, bytes data, Py_ssize_t at) except -1
    cpdef Py_ssize_t _boundary(self, bytes data, Py_ssize_t at) except -1
    cpdef Py_ssize_t sure(self) except -1
    cpdef feed_body(self, data)
    cpdef _parse(self, piece)
    cpdef _fed_head(self, bytes piece)
    cpdef _end_head(self, bytes head)
    cpdef _check_headers(self)
    cpdef _address(self)
    cpdef _fed_body(self, Py_ssize_t count)
    cpdef _bound_framing(self, bytes piece)
    cpdef _managed(self, bytes name, bytes value)
