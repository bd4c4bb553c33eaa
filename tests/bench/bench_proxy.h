/* bench_proxy.h - the parts of `lm-bench proxy`: mock upstreams in a process of their own, proxies
 * as children, and a load generator in this one. All on loopback; one thread each. */
#ifndef LM_BENCH_BENCH_PROXY_H
#define LM_BENCH_BENCH_PROXY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "shared/base/error.h"
#include "tests/bench/bench.h"

#define BENCH_MOCKS      2

/* ---- the protocol between load and mocks, inside ordinary chat requests ----
 *
 * Load asks for `max_tokens` chunks, `seed` ms apart (0: as fast as the socket takes them, eight
 * per send), and puts "Question <tag>" into its message. Each event's content is "<tag> <number>
 * <monotonic ns, hex>". Where the proxy asks by x-lm-hop, the mocks mark their streams as agents
 * do. */
#define BENCH_TAG_DIGITS 8

/* Two upstreams in one child process on `cpu` (-1: anywhere). */
struct bench_mocks {
    pid_t pid; // 0: none
    int port[BENCH_MOCKS];
};
FALLIBLE int bench_mocks_start(struct bench_mocks *m, int cpu, struct error *err);
void bench_mocks_stop(struct bench_mocks *m);

/* ---- proxies ---- */

/* The second three are the first with TLS towards clients. */
enum bench_proxy_kind {
    BENCH_LM_PROXY,
    BENCH_HAPROXY,
    BENCH_NGINX,
    BENCH_LM_PROXY_TLS,
    BENCH_HAPROXY_TLS,
    BENCH_NGINX_TLS,
    BENCH_PROXY_KINDS,
};
static inline bool bench_proxy_is_tls(enum bench_proxy_kind kind)
{
    return kind >= BENCH_LM_PROXY_TLS;
}
static inline enum bench_proxy_kind bench_proxy_program(enum bench_proxy_kind kind)
{
    return bench_proxy_is_tls(kind) ? kind - BENCH_LM_PROXY_TLS : kind;
}
extern const char *const bench_proxy_names[BENCH_PROXY_KINDS];

struct bench_proxy_process {
    enum bench_proxy_kind kind;
    pid_t pid;      // 0: none
    pid_t beat_pid; // lm-proxy: tells it of the mocks as agents do
    int port;
    char dir[64]; // its files; "": none
};

/* E_NOT_FOUND: that program is not installed. Ready when it returns 0. */
FALLIBLE int bench_proxy_start(const struct bench_options *o, enum bench_proxy_kind kind,
                               const struct bench_mocks *mocks, int cpu,
                               struct bench_proxy_process *p, struct error *err);
void bench_proxy_stop(struct bench_proxy_process *p);

void bench_pin(int cpu);                // this process; -1: nothing
uint64_t bench_process_cpu_ns(pid_t p); // of all its threads so far
double bench_process_rss_kb(pid_t p);
int bench_free_port(void); // -1: none

/* ---- load ---- */

struct bench_times {
    float *us;
    size_t count, cap;
};
double bench_times_at(struct bench_times *t, double quantile); // sorts; 0 when empty
void bench_times_deinit(struct bench_times *t);

struct bench_wave {
    int port[BENCH_MOCKS]; // connections take them in turns
    int port_count;
    int connections;
    bool stream, tls;
    int chunks, gap_ms;
    int requests;        // in all; 0: until the time is over
    int warm_ms, run_ms; // of time, where requests is 0: only run_ms counts
    int spread_ms;       // connections begin one after another within this time
    pid_t pid;           // whose CPU and memory count; 0: nobody's
};

struct bench_wave_result {
    int64_t requests, chunks, failed;
    int open_max; // streams that were open at once
    double seconds;
    uint64_t cpu_ns;
    double rss_idle_kb, rss_peak_kb;
    struct bench_times latency; // request sent to answer complete
    struct bench_times first;   // request sent to first chunk
    struct bench_times transit; // chunk sent by the mock to chunk read here
    char why[160];              // the first failure
};

/* E_UPSTREAM: it didn't end. A wrong answer (order, count, another stream's chunk) is a failed
 * request. */
FALLIBLE int bench_wave_run(const struct bench_wave *w, struct bench_wave_result *r,
                            struct error *err);
void bench_wave_result_deinit(struct bench_wave_result *r);

#endif
