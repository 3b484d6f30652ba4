// flows serve PORT | flows ask|connect ADDRESS PORT SECONDS | flows hold ADDRESS PORT COUNT: the two ends of TCP flows.
// serve sends back what it gets on each connection. ask sends a byte at a time on one connection and prints the median
// and the 99th percentile of the round trip in microseconds; connect makes a connection for each byte, one after the
// other, and prints how many a second; hold keeps COUNT connections, on which one byte went each way, until its input ends.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define ANSWERS 1000000

static int fail(const char *what) { perror(what); return 1; }

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static int serve(char **args) {
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(args[0]))};
    struct epoll_event event = {.events = EPOLLIN}, events[64];
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (void *)&here, sizeof here) < 0 || listen(listener, 4096) < 0) return fail("serve");
    event.data.fd = listener;
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                for (int client; (client = accept4(listener, NULL, NULL, 0)) >= 0;) {
                    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                    event.data.fd = client;
                    epoll_ctl(epoll, EPOLL_CTL_ADD, client, &event);
                }
                continue;
            }
            char bytes[4096];
            ssize_t got = read(fd, bytes, sizeof bytes);
            if (got <= 0 || write(fd, bytes, got) != got) close(fd);
        }
    }
}

// A connection on which a byte went each way; -1 if there is none.
static int connected(char **args) {
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(atoi(args[1]))};
    inet_pton(AF_INET, args[0], &peer.sin_addr);
    struct timeval patience = {5, 0};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    char byte = 0;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (void *)&peer, sizeof peer) == 0 && write(fd, &byte, 1) == 1 && read(fd, &byte, 1) == 1) return fd;
    close(fd);
    return -1;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static int ask(char **args) {
    double *spans = malloc(ANSWERS * sizeof *spans);
    int fd = connected(args), count = 0;
    if (fd < 0) return fail("ask");
    char byte = 0;
    for (double start = now(), end = start + atof(args[2]); start < end && count < ANSWERS; start = now()) {
        if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1) return fail("ask");
        spans[count++] = (now() - start) * 1e6;
    }
    qsort(spans, count, sizeof *spans, by_size);
    printf("%.2f %.2f\n", spans[count / 2], spans[count - 1 - count / 100]);
    return 0;
}

static int connect_often(char **args) {
    double start = now(), end = start + atof(args[2]);
    int count = 0;
    for (; now() < end; count++) {
        int fd = connected(args);
        if (fd < 0) return fail("connect");
        close(fd);
    }
    printf("%.1f\n", count / (now() - start));
    return 0;
}

static int hold(char **args) {
    int count = 0;
    while (count < atoi(args[2]) && connected(args) >= 0) count++;
    printf("%d\n", count);
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0) {}
    return 0;
}

int main(int count, char **args) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (count == 3 && !strcmp(args[1], "serve")) return serve(args + 2);
    if (count == 5 && !strcmp(args[1], "ask")) return ask(args + 2);
    if (count == 5 && !strcmp(args[1], "connect")) return connect_often(args + 2);
    if (count == 5 && !strcmp(args[1], "hold")) return hold(args + 2);
    return 2;
}
