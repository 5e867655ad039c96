/* Misfortunes for a process that has this preloaded, at the system calls that it makes: a death at
 * a chosen change of the disk, a network that is not there, a clock that is years behind.
 *
 * The tests steer it through a file that both map: see deploy_lab.Misfortune.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static struct control {
    _Atomic int64_t armed;   /* changes are counted */
    _Atomic int64_t left;    /* the change at which it dies, counted down; 0: at none */
    _Atomic int64_t offline; /* nothing but UNIX sockets can be connected */
    _Atomic int64_t behind;  /* seconds */
} nothing, *control = &nothing;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("MISFORTUNE");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof(nothing), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) control = mapped;
    close(file);
}

static void step(void) {
    if (control->armed && atomic_fetch_sub(&control->left, 1) == 1) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
}

/* A write changes the disk when it is to a file; what a process says of itself is none. */
static void written(int file) {
    struct stat found;
    if (control->armed && file > 2 && !fstat(file, &found) && S_ISREG(found.st_mode)) step();
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define CHANGE(type, name, parameters, arguments) \
    type name parameters { \
        REAL(name); \
        step(); \
        return real arguments; \
    }

CHANGE(int, fsync, (int f), (f))
CHANGE(int, fdatasync, (int f), (f))
CHANGE(int, fchmod, (int f, mode_t m), (f, m))
CHANGE(int, ftruncate, (int f, off_t n), (f, n))
CHANGE(int, ftruncate64, (int f, off64_t n), (f, n))
CHANGE(int, posix_fallocate, (int f, off_t a, off_t n), (f, a, n))
CHANGE(int, posix_fallocate64, (int f, off64_t a, off64_t n), (f, a, n))
CHANGE(int, rename, (const char *a, const char *b), (a, b))
CHANGE(int, renameat, (int d, const char *a, int e, const char *b), (d, a, e, b))
CHANGE(int, renameat2, (int d, const char *a, int e, const char *b, unsigned f), (d, a, e, b, f))
CHANGE(int, link, (const char *a, const char *b), (a, b))
CHANGE(int, linkat, (int d, const char *a, int e, const char *b, int f), (d, a, e, b, f))
CHANGE(int, unlink, (const char *a), (a))
CHANGE(int, unlinkat, (int d, const char *a, int f), (d, a, f))
CHANGE(int, mkdir, (const char *a, mode_t m), (a, m))
CHANGE(int, mkdirat, (int d, const char *a, mode_t m), (d, a, m))
CHANGE(int, rmdir, (const char *a), (a))

#define WRITE(name, parameters, arguments) \
    ssize_t name parameters { \
        REAL(name); \
        written(f); \
        return real arguments; \
    }

WRITE(write, (int f, const void *p, size_t n), (f, p, n))
WRITE(pwrite, (int f, const void *p, size_t n, off_t a), (f, p, n, a))
WRITE(pwrite64, (int f, const void *p, size_t n, off64_t a), (f, p, n, a))

#define OPEN(name, parameters, ...) \
    int name parameters { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        if (flags & (O_CREAT | O_TRUNC)) step(); \
        return real(__VA_ARGS__, flags, mode); \
    }

OPEN(open, (const char *path, int flags, ...), path)
OPEN(open64, (const char *path, int flags, ...), path)
OPEN(openat, (int d, const char *path, int flags, ...), d, path)
OPEN(openat64, (int d, const char *path, int flags, ...), d, path)

int connect(int f, const struct sockaddr *address, socklen_t size) {
    REAL(connect);
    if (control->offline && address->sa_family != AF_UNIX) {
        errno = ENETUNREACH;
        return -1;
    }
    return real(f, address, size);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int done = real(clock, now);
    if (!done && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec -= control->behind;
    return done;
}

time_t time(time_t *into) {
    REAL(time);
    time_t now = real(NULL) - control->behind;
    if (into) *into = now;
    return now;
}

int gettimeofday(struct timeval *now, void *zone) {
    REAL(gettimeofday);
    int done = real(now, zone);
    if (!done) now->tv_sec -= control->behind;
    return done;
}
