// guests DPDK-OPTIONS -- window SIZE SECONDS PAIRS FLOWS | latency SIZE SECONDS: two guests on the two ports that DPDK
// was given, on one core. Frames go from the first to the second: 256 of them are always under way, or one. They are UDP
// between PAIRS pairs of MAC addresses (02:00:00:HH:LL:01 to 02:00:00:HH:LL:02), with FLOWS five-tuples.
// Prints frames per second and how many were lost, or the way's median and 99th percentile in microseconds.
#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BURST 32
#define WINDOW 256
#define LATENCIES 1000000
#define PAYLOAD_AT 42

static const char mark[] = "WEFT";
static struct rte_mempool *pool;
static unsigned size, pairs = 1, flows = 1, next;

static int fail(const char *what) { fprintf(stderr, "%s\n", what); return 1; }

// A frame's bytes, but for what tells one from the other; the IPv4 checksum is not looked at by anybody here.
static uint8_t *plain(int from) {
    static uint8_t bytes[2][2048];
    uint8_t *at = bytes[from];
    if (at[0]) return at;
    unsigned ip = size - 14, udp = ip - 20;
    uint8_t head[] = {2,    0, 0, 0,       0,  from ? 1 : 2, 2,  0,  0, 0, 0,  from ? 2 : 1, 8,    0,
                      0x45, 0, ip >> 8, ip, 0,  0, 0, 0, 64, 17, 0, 0, 10, 0, 0, from ? 2 : 1, 10, 0, 0, from ? 1 : 2,
                      0x20, 0, 0x13,    0x89, udp >> 8, udp};
    memcpy(at, head, sizeof head);
    memcpy(at + PAYLOAD_AT, mark, 4);
    return at;
}

static void fill(uint8_t *at, unsigned number, int from) {
    unsigned pair = number % pairs, flow = number % flows;
    memcpy(at, plain(from), size);
    at[3] = at[9] = pair >> 8, at[4] = at[10] = pair;
    at[28] = flow >> 13, at[34] = 0x20 | (flow >> 8 & 31), at[35] = flow; // source address and port
}

static unsigned put(int from, unsigned count) {
    struct rte_mbuf *frames[BURST];
    if (rte_pktmbuf_alloc_bulk(pool, frames, count)) return 0;
    for (unsigned i = 0; i < count; i++) {
        fill(rte_pktmbuf_mtod(frames[i], uint8_t *), next++, from);
        frames[i]->data_len = frames[i]->pkt_len = size;
    }
    unsigned sent = rte_eth_tx_burst(from, 0, frames, count);
    if (sent < count) rte_pktmbuf_free_bulk(frames + sent, count - sent);
    return sent;
}

static unsigned take(int at) {
    struct rte_mbuf *frames[BURST];
    unsigned got = rte_eth_rx_burst(at, 0, frames, BURST), ours = 0;
    for (unsigned i = 0; i < got; i++)
        ours += frames[i]->pkt_len == size && !memcmp(rte_pktmbuf_mtod_offset(frames[i], char *, PAYLOAD_AT), mark, 4);
    if (got) rte_pktmbuf_free_bulk(frames, got);
    return ours;
}

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void window(uint64_t ticks) {
    uint64_t start = rte_rdtsc(), last = start, sent = 0, got = 0, lost = 0, now;
    while ((now = rte_rdtsc()) - start < ticks) {
        uint64_t room = WINDOW - (sent - got - lost);
        if (room) sent += put(0, room < BURST ? room : BURST);
        unsigned more = take(1);
        got += more;
        take(0);
        if (more) last = now;
        if (now - last > rte_get_tsc_hz() / 100) lost = sent - got, last = now; // they will not come any more
    }
    printf("%.0f %lu\n", got * (double)rte_get_tsc_hz() / (now - start), lost);
}

static void latency(uint64_t ticks) {
    static uint64_t ways[LATENCIES];
    uint64_t start = rte_rdtsc(), count = 0, now;
    while ((now = rte_rdtsc()) - start < ticks && count < LATENCIES) {
        if (!put(0, 1)) continue;
        while (!take(1))
            if (rte_rdtsc() - now > rte_get_tsc_hz() / 10) break;
        ways[count++] = rte_rdtsc() - now;
    }
    qsort(ways, count, sizeof *ways, by_size);
    double us = 1e6 / rte_get_tsc_hz();
    printf("%.3f %.3f\n", ways[count / 2] * us, ways[count * 99 / 100] * us);
}

int main(int count, char **args) {
    int taken = rte_eal_init(count, args);
    if (taken < 0) return fail("DPDK does not start");
    count -= taken, args += taken;
    if (count < 4 || rte_eth_dev_count_avail() != 2) return fail("guests DPDK-OPTIONS -- window|latency SIZE SECONDS");
    size = atoi(args[2]);
    if (count > 5) pairs = atoi(args[4]), flows = atoi(args[5]);
    pool = rte_pktmbuf_pool_create("frames", 16383, 256, 0, 2048 + RTE_PKTMBUF_HEADROOM, 0);
    for (int port = 0; port < 2; port++) {
        struct rte_eth_conf plain = {0};
        if (!pool || rte_eth_dev_configure(port, 1, 1, &plain) || rte_eth_rx_queue_setup(port, 0, 1024, 0, NULL, pool) ||
            rte_eth_tx_queue_setup(port, 0, 1024, 0, NULL) || rte_eth_dev_start(port))
            return fail("a port does not start");
    }
    uint64_t second = rte_get_tsc_hz(), deadline = rte_rdtsc() + 8 * second;
    // Who learns hears of every address first, from the side at which it is.
    unsigned seen[2] = {0, 0};
    while ((!seen[0] || !seen[1]) && rte_rdtsc() < deadline) {
        for (int port = 0; port < 2; port++) put(port, 1), rte_delay_us_block(500), seen[!port] += take(!port);
    }
    if (!seen[0] || !seen[1]) return fail("no frame passes");
    for (unsigned i = 0; i < 2 * pairs; i++) {
        next = i / 2;
        put(i & 1, 1);
        rte_delay_us_block(5);
        take(0), take(1);
    }
    for (deadline = rte_rdtsc() + second / 10; rte_rdtsc() < deadline;) take(0), take(1);
    (strcmp(args[1], "latency") ? window : latency)(atof(args[3]) * second);
    fflush(stdout);
    for (int port = 0; port < 2; port++) rte_eth_dev_stop(port), rte_eth_dev_close(port);
    return rte_eal_cleanup() != 0;
}
