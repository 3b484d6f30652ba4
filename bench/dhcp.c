// dhcp IF CLIENTS WINDOW SECONDS: DHCP clients on a network interface, each a station of its own, so many of them at work at
// once. Each goes from DISCOVER to ACK; one that hears nothing says it again, as RFC 2131 has it: after 4 s, 8 s, … give or
// take one. With SECONDS 0 each client does it
// once; otherwise they go on, one after the other, for so long. Prints exchanges, seconds, messages said again and NAKs.
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define AGAIN_AFTER 4.0
#define OPTIONS_AT (14 + 20 + 8 + 240)
#define FRAME_BYTES (OPTIONS_AT + 60)

enum { IDLE, DISCOVERING, REQUESTING, BOUND };

static struct client {
    uint8_t state, tries, offered[4], server[4];
    double again_at;
} *clients;

static int packet, count;
static long again, naks, exchanges;

static void die(const char *what) { perror(what); exit(1); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static uint16_t ip_sum(const uint8_t *header) {
    uint32_t sum = 0;
    for (int at = 0; at < 20; at += 2) sum += header[at] << 8 | header[at + 1];
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

static void mac_of(int client, uint8_t *mac) {
    uint8_t octets[6] = {2, 0xdc, 0, client >> 16, client >> 8, client};
    memcpy(mac, octets, 6);
}

// Says what the client's state is for.
static void say(int number, double at) {
    struct client *client = &clients[number];
    uint8_t frame[FRAME_BYTES] = {0}, *ip = frame + 14, *udp = ip + 20, *bootp = udp + 8, *option = frame + OPTIONS_AT;
    int length = FRAME_BYTES - 14;
    memset(frame, 0xff, 6);
    mac_of(number, frame + 6);
    frame[12] = 8;
    uint8_t header[20] = {0x45, 0, length >> 8, length, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255};
    memcpy(ip, header, 20);
    uint16_t sum = ip_sum(ip);
    ip[10] = sum >> 8, ip[11] = sum;
    uint8_t ports[8] = {0, 68, 0, 67, (length - 20) >> 8, length - 20, 0, 0}; // no checksum: IPv4 allows that
    memcpy(udp, ports, 8);
    bootp[0] = 1, bootp[1] = 1, bootp[2] = 6;
    uint32_t xid = htonl(number + 1);
    memcpy(bootp + 4, &xid, 4);
    mac_of(number, bootp + 28);
    memcpy(bootp + 236, "\x63\x82\x53\x63", 4);
    *option++ = 53, *option++ = 1, *option++ = client->state == REQUESTING ? 3 : 1;
    *option++ = 55, *option++ = 4, *option++ = 1, *option++ = 3, *option++ = 6, *option++ = 15;
    if (client->state == REQUESTING) {
        *option++ = 50, *option++ = 4;
        memcpy(option, client->offered, 4), option += 4;
        *option++ = 54, *option++ = 4;
        memcpy(option, client->server, 4), option += 4;
    }
    *option = 255;
    double wait = AGAIN_AFTER * (1 << (client->tries < 4 ? client->tries++ : 4));
    client->again_at = at + wait + rand() / (double)RAND_MAX * 2 - 1;
    if (send(packet, frame, sizeof frame, 0) < 0) return; // the queue is full: it will be said again
}

static void begin(int number, double at) {
    clients[number].state = DISCOVERING;
    clients[number].tries = 0;
    say(number, at);
}

// Takes in an answer; whether it ends the exchange of a client.
static int hear(const uint8_t *frame, ssize_t length, double at) {
    if (length < OPTIONS_AT || frame[12] != 8 || frame[13] != 0 || frame[23] != 17 || frame[37] != 68) return 0;
    const uint8_t *bootp = frame + 42, *option = frame + OPTIONS_AT, *end = frame + length;
    uint32_t xid;
    memcpy(&xid, bootp + 4, 4);
    int number = (int)ntohl(xid) - 1, kind = 0;
    if (bootp[0] != 2 || number < 0 || number >= count) return 0;
    struct client *client = &clients[number];
    while (option + 1 < end && *option != 255 && option + 2 + option[1] <= end) {
        if (option[0] == 53) kind = option[2];
        if (option[0] == 54 && kind == 2) memcpy(client->server, option + 2, 4);
        option += 2 + option[1];
    }
    if (kind == 2 && client->state == DISCOVERING) {
        memcpy(client->offered, bootp + 16, 4);
        client->state = REQUESTING;
        client->tries = 0;
        say(number, at);
    } else if (kind == 5 && client->state == REQUESTING) {
        client->state = BOUND;
        exchanges++;
        return 1;
    } else if (kind == 6 && client->state == REQUESTING) {
        naks++;
        begin(number, at);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 5) return fprintf(stderr, "usage: dhcp IF CLIENTS WINDOW SECONDS\n"), 2;
    count = atoi(argv[2]);
    int window = atoi(argv[3]), next = 0, busy = 0, buffer = 64 << 20;
    double seconds = atof(argv[4]);
    clients = calloc(count, sizeof *clients);
    packet = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
    if (packet < 0) die("socket");
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = if_nametoindex(argv[1])};
    struct packet_mreq all = {.mr_ifindex = at.sll_ifindex, .mr_type = PACKET_MR_PROMISC};
    if (bind(packet, (struct sockaddr *)&at, sizeof at) < 0) die("bind");
    setsockopt(packet, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all);
    setsockopt(packet, SOL_PACKET, PACKET_IGNORE_OUTGOING, &(int){1}, sizeof(int));
    setsockopt(packet, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer);
    setsockopt(packet, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer);

    double start = now(), looked = start, t = start;
    for (;;) {
        t = now();
        while (busy < window && (seconds > 0 ? t - start < seconds : next < count)) {
            int number = next++ % count;
            if (clients[number].state == DISCOVERING || clients[number].state == REQUESTING) break; // it waits still
            begin(number, t);
            busy++;
        }
        if (seconds > 0 ? t - start >= seconds : exchanges >= count || t - start > 90) break;
        uint8_t frame[2048];
        ssize_t length;
        int heard = 0;
        while (heard < 64 && (length = recv(packet, frame, sizeof frame, MSG_DONTWAIT)) > 0) {
            busy -= hear(frame, length, t);
            heard++;
        }
        if (t - looked > 0.05) {
            looked = t;
            for (int number = 0; number < count; number++) {
                struct client *client = &clients[number];
                int waits = client->state == DISCOVERING || client->state == REQUESTING;
                if (waits && t > client->again_at) again++, say(number, t);
            }
        }
        if (!heard) {
            struct pollfd readable = {.fd = packet, .events = POLLIN};
            poll(&readable, 1, 20);
        }
    }
    printf("%ld %.3f %ld %ld\n", exchanges, t - start, again, naks);
    return 0;
}
