/* nbd-client ADDRESS PORT: /dev/nbd0 becomes what an NBD server there exports. In the RAM disk of a
 * virtual machine: stands still with the device in the background, returns once it can be used. */
#include <arpa/inet.h>
#include <endian.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/nbd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define GO 7
#define INFO 3

static void check(int failed, const char *what) {
    if (!failed) return;
    perror(what);
    exit(1);
}

static void take(int from, void *to, size_t size) {
    for (char *at = to; size;) {
        ssize_t got = read(from, at, size);
        check(got <= 0, "read");
        at += got;
        size -= (size_t)got;
    }
}

int main(int count, char **words) {
    if (count != 3) return 64;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(words[2]))};
    check(!inet_aton(words[1], &address.sin_addr), "address");
    int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    check(connect(server, (void *)&address, sizeof(address)), "connect");

    char greeting[18];
    take(server, greeting, sizeof(greeting));
    struct __attribute__((packed)) {
        uint32_t flags;
        char magic[8];
        uint32_t option, length, name_length;
        uint16_t wishes;
    } ask = {htobe32(3), "IHAVEOPT", htobe32(GO), htobe32(6), 0, 0};
    check(write(server, &ask, sizeof(ask)) != sizeof(ask), "write");
    struct __attribute__((packed)) {
        uint64_t magic;
        uint32_t option, type, length;
        uint16_t kind;
        uint64_t size;
        uint16_t features;
    } told;
    take(server, &told, sizeof(told));
    check(be32toh(told.type) != INFO, "export");
    char acknowledged[20];
    take(server, acknowledged, sizeof(acknowledged));

    int device = open("/dev/nbd0", O_RDWR | O_CLOEXEC);
    check(device < 0, "/dev/nbd0");
    check(ioctl(device, NBD_SET_BLKSIZE, 4096UL), "block size");
    check(ioctl(device, NBD_SET_SIZE_BLOCKS, (unsigned long)(be64toh(told.size) / 4096)), "size");
    check(ioctl(device, NBD_SET_FLAGS, (unsigned long)be16toh(told.features)), "flags");
    check(ioctl(device, NBD_SET_SOCK, server), "socket");
    pid_t standing = fork();
    check(standing < 0, "fork");
    if (!standing) return ioctl(device, NBD_DO_IT) != 0;
    /* A read returns when the device is up; before that it fails. */
    for (int turn = 0; turn < 12000; turn++) {
        char sector[4096];
        if (pread(device, sector, sizeof(sector), 0) == sizeof(sector)) return 0;
        usleep(10000);
    }
    check(1, "not up after two minutes");
}
