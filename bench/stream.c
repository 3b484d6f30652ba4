// stream FROM TO SIZE SECONDS: frames behind 32-bit lengths into the Unix stream socket FROM as fast as they are taken,
// counted where they come out at TO. Prints frames per second.
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

static int in, out, size;
static volatile uint64_t bytes;

static int dial(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
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
    static char buffer[128 << 10];
    ssize_t got;
    while ((got = read(out, buffer, sizeof buffer)) > 0) bytes += got;
    return unused;
}

int main(int count, char **args) {
    static uint8_t burst[BURST * (4 + 2048)];
    if (count != 5) return 2;
    in = dial(args[1]), out = dial(args[2]), size = atoi(args[3]);
    for (int i = 0; i < BURST; i++) {
        uint8_t *at = burst + i * (4 + size), head[] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5};
        uint32_t length = htonl(size);
        memcpy(at, &length, 4);
        memcpy(at + 4, head, sizeof head);
    }
    sleep(1); // both ends are taken up
    pthread_t counter;
    pthread_create(&counter, NULL, count_all, NULL);
    double start = now(), end = start + atof(args[4]);
    while (now() < end)
        for (size_t all = BURST * (4 + (size_t)size), done = 0; done < all;) {
            ssize_t put = write(in, burst + done, all - done);
            if (put <= 0) return 1;
            done += put;
        }
    printf("%.0f\n", bytes / (double)(4 + size) / (now() - start));
    return 0;
}
