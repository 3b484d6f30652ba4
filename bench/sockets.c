// sockets stream|dgram FROM TO SIZE SECONDS: frames into the Unix socket FROM as fast as they are taken, counted where they
// come out at TO; in a stream each is behind its length in 32 bits. Prints frames per second.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define BURST 32

static int in, out, size, is_stream;
static volatile uint64_t bytes;

static int dial(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, is_stream ? SOCK_STREAM : SOCK_DGRAM, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s.peer", path); // where a datagram's answer goes
    if (!is_stream && bind(fd, (void *)&address, sizeof address) < 0) { perror(address.sun_path); exit(1); }
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (connect(fd, (void *)&address, sizeof address) < 0) { perror(path); exit(1); }
    return fd;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void *count_all(void *unused) {
    static char buffer[BURST][4096];
    struct iovec parts[BURST];
    struct mmsghdr many[BURST];
    ssize_t got;
    for (int i = 0; i < BURST; i++) {
        parts[i] = (struct iovec){buffer[i], sizeof buffer[i]};
        many[i].msg_hdr = (struct msghdr){.msg_iov = parts + i, .msg_iovlen = 1};
    }
    if (is_stream)
        while ((got = read(out, buffer, sizeof buffer)) > 0) bytes += got;
    else
        while ((got = recvmmsg(out, many, BURST, MSG_WAITFORONE, NULL)) > 0) bytes += got * size;
    return unused;
}

int main(int count, char **args) {
    static uint8_t burst[BURST * (4 + 2048)];
    if (count != 6) return 2;
    is_stream = !strcmp(args[1], "stream");
    in = dial(args[2]), out = dial(args[3]), size = atoi(args[4]);
    struct iovec parts[BURST];
    struct mmsghdr many[BURST];
    for (int i = 0; i < BURST; i++) {
        uint8_t *at = burst + i * (4 + size), head[] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5};
        uint32_t length = htonl(size);
        memcpy(at, &length, 4);
        memcpy(at + 4, head, sizeof head);
        parts[i] = (struct iovec){at + 4, size};
        many[i].msg_hdr = (struct msghdr){.msg_iov = parts + i, .msg_iovlen = 1};
    }
    uint8_t hello[64] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5};
    if (!is_stream && (send(out, hello, sizeof hello, 0) < 0 || send(in, burst + 4, size, 0) < 0)) return 1;
    sleep(1); // both ends are taken up
    pthread_t counter;
    pthread_create(&counter, NULL, count_all, NULL);
    double start = now(), end = start + atof(args[5]);
    while (now() < end && !is_stream)
        if (sendmmsg(in, many, BURST, 0) < 0) return 1;
    while (now() < end)
        for (size_t all = BURST * (4 + (size_t)size), done = 0; done < all;) {
            ssize_t put = write(in, burst + done, all - done);
            if (put <= 0) return 1;
            done += put;
        }
    printf("%.0f\n", bytes / (double)(size + (is_stream ? 4 : 0)) / (now() - start));
    return 0;
}
