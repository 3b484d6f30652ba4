// hosts flood DEVICE FROM TO SECONDS | hosts echo PORT | hosts ask ADDRESS PORT SECONDS: what hosts on a switch do.
// flood sends UDP frames of 64 bytes between two MAC addresses as fast as the device takes them; echo answers each
// datagram, and ask waits for an answer to one at a time and prints the median in microseconds.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BURST 64
#define ANSWERS 1000000

static int fail(const char *what) { perror(what); return 1; }

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static int flood(char **args) {
    static uint8_t frame[64] = {[12] = 8, 0, 0x45, 0, 0, 50, 0, 0, 0, 0, 64, 17, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2,
                                0x20, 0, 0x13, 0x89, 0, 30};
    for (int i = 0; i < 2; i++) {
        unsigned mac[6];
        sscanf(args[2 - i], "%x:%x:%x:%x:%x:%x", mac, mac + 1, mac + 2, mac + 3, mac + 4, mac + 5);
        for (int k = 0; k < 6; k++) frame[6 * i + k] = mac[k];
    }
    int fd = socket(AF_PACKET, SOCK_RAW, 0);
    struct sockaddr_ll device = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex(args[0])};
    if (fd < 0 || bind(fd, (void *)&device, sizeof device) < 0) return fail(args[0]);
    struct iovec part = {frame, sizeof frame};
    struct mmsghdr many[BURST] = {0};
    for (int i = 0; i < BURST; i++) many[i].msg_hdr.msg_iov = &part, many[i].msg_hdr.msg_iovlen = 1;
    for (double end = now() + atof(args[3]); now() < end;) sendmmsg(fd, many, BURST, 0);
    return 0;
}

static int echo(char **args) {
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(args[0]))}, peer;
    char bytes[2048];
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0 || bind(fd, (void *)&here, sizeof here) < 0) return fail("echo");
    for (;;) {
        socklen_t len = sizeof peer;
        ssize_t got = recvfrom(fd, bytes, sizeof bytes, 0, (void *)&peer, &len);
        if (got >= 0) sendto(fd, bytes, got, 0, (void *)&peer, len);
    }
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static int ask(char **args) {
    static double ways[ANSWERS];
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons(atoi(args[1]))};
    struct timeval patience = {.tv_usec = 100000};
    int fd = socket(AF_INET, SOCK_DGRAM, 0), count = 0;
    if (inet_pton(AF_INET, args[0], &there.sin_addr) != 1 || connect(fd, (void *)&there, sizeof there) < 0) return fail("ask");
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    for (double start = now(), sent = start; sent - start < atof(args[2]) && count < ANSWERS; sent = now()) {
        char byte = 0;
        if (send(fd, &byte, 1, 0) == 1 && recv(fd, &byte, 1, 0) == 1) ways[count++] = now() - sent;
    }
    qsort(ways, count, sizeof *ways, by_size);
    printf("%.2f\n", ways[count / 2] * 1e6);
    return 0;
}

int main(int count, char **args) {
    if (count == 6 && !strcmp(args[1], "flood")) return flood(args + 2);
    if (count == 3 && !strcmp(args[1], "echo")) return echo(args + 2);
    if (count == 5 && !strcmp(args[1], "ask")) return ask(args + 2);
    return 2;
}
