/* A WASI preview-1 command that answers like a CGI program: header lines, an empty line, a body.
 * The path chooses: /env, /arguments, /body (its standard input, byte for byte), /file/NAME,
 * /write/NAME, /list/NAME, /random, /clock, /sleep/N, /exit/N, /abort, /stderr, /headerless. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static const char *after(const char *path, const char *prefix) {
    size_t size = strlen(prefix);
    return strncmp(path, prefix, size) ? NULL : path + size;
}

static int fail(const char *what) {
    printf("Status: 500\nContent-Type: text/plain\n\n%s: %s\n", what, strerror(errno));
    return 0;
}

static int send_file(const char *name) {
    FILE *file = fopen(name, "rb");
    if (!file) return fail(name);
    printf("Content-Type: application/octet-stream\n\n");
    char part[4096];
    size_t size;
    while ((size = fread(part, 1, sizeof(part), file))) fwrite(part, 1, size, stdout);
    fclose(file);
    return 0;
}

static int write_file(const char *name) {
    FILE *file = fopen(name, "wb");
    if (!file) return fail(name);
    char part[4096];
    size_t size;
    while ((size = fread(part, 1, sizeof(part), stdin)))
        if (fwrite(part, 1, size, file) != size) return fail(name);
    if (fclose(file)) return fail(name);
    return send_file(name);
}

static int list(const char *name) {
    DIR *directory = opendir(name);
    if (!directory) return fail(name);
    printf("Content-Type: text/plain\n\n");
    for (struct dirent *entry; (entry = readdir(directory));) printf("%s\n", entry->d_name);
    closedir(directory);
    return 0;
}

int main(int argc, char **argv) {
    const char *path = getenv("PATH_INFO"), *rest;
    if (!path) path = argc > 1 ? argv[1] : "/";
    if (!strcmp(path, "/headerless")) {
        printf("no header, only this\n");
        return 0;
    }
    if ((rest = after(path, "/exit/"))) return atoi(rest);
    if (!strcmp(path, "/abort")) abort();
    if ((rest = after(path, "/file/"))) return send_file(rest);
    if ((rest = after(path, "/write/"))) return write_file(rest);
    if ((rest = after(path, "/list/"))) return list(*rest ? rest : "/");
    if ((rest = after(path, "/status/"))) {
        printf("Status: %s\nContent-Type: text/plain\nX-One: 1\n\nstatus\n", rest);
        return 0;
    }
    if (!strcmp(path, "/redirect")) {
        printf("Location: /elsewhere\n\n");
        return 0;
    }
    printf("Content-Type: text/plain\n\n");
    if (!strcmp(path, "/env"))
        for (char **at = environ; *at; at++) printf("%s\n", *at);
    else if (!strcmp(path, "/arguments"))
        for (int i = 0; i < argc; i++) printf("%s\n", argv[i]);
    else if (!strcmp(path, "/body")) {
        char part[4096];
        size_t size;
        while ((size = fread(part, 1, sizeof(part), stdin))) fwrite(part, 1, size, stdout);
    } else if (!strcmp(path, "/random")) {
        unsigned char bytes[16];
        if (getentropy(bytes, sizeof(bytes))) return 1;
        for (size_t i = 0; i < sizeof(bytes); i++) printf("%02x", bytes[i]);
    } else if (!strcmp(path, "/clock")) {
        struct timespec wall, steady;
        clock_gettime(CLOCK_REALTIME, &wall);
        clock_gettime(CLOCK_MONOTONIC, &steady);
        printf("%lld %lld", (long long)wall.tv_sec, (long long)steady.tv_sec);
    } else if ((rest = after(path, "/sleep/"))) {
        usleep((useconds_t)atoi(rest) * 1000);
        printf("slept");
    } else if (!strcmp(path, "/stderr")) {
        fprintf(stderr, "a line for the log\n");
        printf("ok");
    } else if (!strcmp(path, "/loop")) {
        fflush(stdout);
        for (volatile int i = 0;; i++) {
        }
    } else
        printf("hello %s\n", path);
    return 0;
}
