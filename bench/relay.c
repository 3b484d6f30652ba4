// relay tap A B | relay stream|dgram PATH PATH: a cable that looks nothing up, one thread. The ceiling for a switch of one
// thread on the same ports: two TAP devices with virtio-net headers, or two Unix sockets that it listens at.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BURST 32

static void die(const char *what) { perror(what); exit(1); }

static int tap(const char *name) {
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0) die(name);
    if (ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN) < 0) die("offload");
    return fd;
}

static int listener(const char *path, int kind) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, kind, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    unlink(path);
    if (fd < 0 || bind(fd, (void *)&address, sizeof address) < 0) die(path);
    if (kind == SOCK_STREAM && listen(fd, 1) < 0) die(path);
    return fd;
}

// Waits for a peer: a stream of its own, or whoever sends the first datagram.
static int meet(int fd, int kind) {
    struct sockaddr_un peer;
    socklen_t len = sizeof peer;
    char first[2048];
    if (kind == SOCK_STREAM) return accept(fd, NULL, NULL);
    if (recvfrom(fd, first, sizeof first, 0, (void *)&peer, &len) < 0 || connect(fd, (void *)&peer, len) < 0) die("peer");
    return fd;
}

static ssize_t recv_some(int fd, int is_tap, char *buffer, size_t room) {
    return is_tap ? read(fd, buffer, room) : recv(fd, buffer, room, MSG_DONTWAIT);
}

int main(int count, char **args) {
    static char buffer[128 << 10];
    if (count != 4) return 2;
    int is_tap = !strcmp(args[1], "tap"), kind = strcmp(args[1], "dgram") ? SOCK_STREAM : SOCK_DGRAM, fds[2];
    int is_stream = !is_tap && kind == SOCK_STREAM;
    for (int i = 0; i < 2; i++) fds[i] = is_tap ? tap(args[2 + i]) : listener(args[2 + i], kind);
    puts("ready");
    fflush(stdout);
    for (int i = 0; !is_tap && i < 2; i++) fds[i] = meet(fds[i], kind);
    struct pollfd polled[2] = {{fds[0], POLLIN, 0}, {fds[1], POLLIN, 0}};
    for (;;) {
        poll(polled, 2, -1);
        for (int i = 0; i < 2; i++)
            for (int k = 0; polled[i].revents && k < (is_stream ? 1 : BURST); k++) {
                ssize_t got = recv_some(fds[i], is_tap, buffer, sizeof buffer), done = 0;
                if (got <= 0 && is_stream) return 0;
                if (got <= 0) break;
                while (done < got) {
                    ssize_t put = write(fds[!i], buffer + done, got - done);
                    if (put <= 0) break;
                    done += put;
                }
            }
    }
}
