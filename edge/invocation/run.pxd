cimport cython
from edge.invocation.meter cimport Meter
from edge.invocation.sandbox cimport Sandbox, Sandboxes


@cython.locals(sandbox=Sandbox)
cpdef start(Sandboxes sandboxes, export, arguments, ended=*, Meter meter=*, double waited=*)
