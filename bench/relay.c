// relay tap A B | relay stream PATH PATH: a cable that looks nothing up, one thread. The ceiling for a switch of one
// thread on the same ports: two TAP devices with virtio-net headers, or two Unix stream sockets that it listens at.
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

static int listener(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    unlink(path);
    if (fd < 0 || bind(fd, (void *)&address, sizeof address) < 0 || listen(fd, 1) < 0) die(path);
    return fd;
}

int main(int count, char **args) {
    static char buffer[128 << 10];
    if (count != 4) return 2;
    int is_tap = !strcmp(args[1], "tap"), fds[2];
    for (int i = 0; i < 2; i++) fds[i] = is_tap ? tap(args[2 + i]) : listener(args[2 + i]);
    puts("ready");
    fflush(stdout);
    for (int i = 0; !is_tap && i < 2; i++) fds[i] = accept(fds[i], NULL, NULL);
    struct pollfd polled[2] = {{fds[0], POLLIN, 0}, {fds[1], POLLIN, 0}};
    for (;;) {
        poll(polled, 2, -1);
        for (int i = 0; i < 2; i++)
            for (int k = 0; polled[i].revents && k < (is_tap ? BURST : 1); k++) {
                ssize_t got = read(fds[i], buffer, sizeof buffer), done = 0;
                if (got <= 0 && !is_tap) return 0;
                if (got <= 0) break;
                while (done < got) {
                    ssize_t put = write(fds[!i], buffer + done, got - done);
                    if (put <= 0) break;
                    done += put;
                }
            }
    }
}
