/* bench_proxy.c - `lm-bench proxy`: what a request, a chunk and an open stream cost in lm-proxy,
 * HAProxy and nginx, in turns within each round, between the same mocks and the same load. The
 * proxies share one core, load and mocks another one, so that only CPU time and memory of the proxy
 * process are compared, not who gets the processor. */
#include "tests/bench/bench_proxy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared/base/check.h"
#include "shared/base/str.h"
#include "shared/net/loop.h"
enum proxy_mode {
    MODE_REQUESTS,
    MODE_PACED,
    MODE_QUEUED,
    MODE_LATENCY,
    MODE_HELD,
    MODES,
};
static const char *const mode_names[MODES] = {"requests", "paced", "queued", "latency", "held"};

enum proxy_figure {
    REQUEST_CPU,
    REQUEST_RATE,
    PACED_CPU,
    PACED_FIRST,
    PACED_P50,
    PACED_P99,
    QUEUED_CPU,
    QUEUED_RATE,
    ADDED_1_P50,
    ADDED_1_P99,
    ADDED_16_P50,
    ADDED_16_P99,
    HELD_MEMORY,
    HELD_CPU,
    HELD_P50,
    HELD_P99,
    HELD_OPEN,
    FIGURES,
};

static const struct {
    const char *name;
    enum proxy_mode mode;
    const char *target;
} figures[FIGURES] = {
    [REQUEST_CPU] = {"us of CPU per request, 64 connections", MODE_REQUESTS, "<= 18"},
    [REQUEST_RATE] = {"requests/s", MODE_REQUESTS, ""},
    [PACED_CPU] = {"us of CPU per chunk, 256 streams, 10 ms", MODE_PACED, "<= 14"},
    [PACED_FIRST] = {"  first chunk p99, ms", MODE_PACED, ""},
    [PACED_P50] = {"  transit p50, ms", MODE_PACED, ""},
    [PACED_P99] = {"  transit p99, ms", MODE_PACED, ""},
    [QUEUED_CPU] = {"us of CPU per queued chunk, 32 streams", MODE_QUEUED, "<= 3"},
    [QUEUED_RATE] = {"chunks/s", MODE_QUEUED, ""},
    [ADDED_1_P50] = {"ms added, 1 connection, p50", MODE_LATENCY, ""},
    [ADDED_1_P99] = {"ms added, 1 connection, p99", MODE_LATENCY, ""},
    [ADDED_16_P50] = {"ms added, 16 connections, p50", MODE_LATENCY, "no worse"},
    [ADDED_16_P99] = {"ms added, 16 connections, p99", MODE_LATENCY, "no worse"},
    [HELD_MEMORY] = {"KiB per held stream", MODE_HELD, "<= 2"},
    [HELD_CPU] = {"us of CPU per chunk, held streams, 1 s", MODE_HELD, ""},
    [HELD_P50] = {"  transit p50, ms", MODE_HELD, ""},
    [HELD_P99] = {"  transit p99, ms", MODE_HELD, "no worse"},
    [HELD_OPEN] = {"  streams open at once", MODE_HELD, "all"},
};

struct proxy_bench {
    const struct bench_options *o;
    struct bench_mocks mocks;
    bool modes[MODES], here[BENCH_PROXY_KINDS];
    int proxy_cpu, load_cpu; // -1: not pinned
    int held_streams;
    int64_t failed;
    struct bench_samples samples[FIGURES][BENCH_PROXY_KINDS];
};

/* ---- one wave, one or more figures ---- */

static void note(struct proxy_bench *b, enum proxy_figure figure, enum bench_proxy_kind kind,
                 double value)
{
    bench_samples_add(&b->samples[figure][kind], value);
}

static void wave_to(struct bench_wave *w, const struct bench_proxy_process *p)
{
    w->port[0] = p->port;
    w->port_count = 1;
    w->pid = p->pid;
    w->tls = bench_proxy_is_tls(p->kind);
}

static int run_wave(struct proxy_bench *b, const struct bench_wave *w, const char *who,
                    struct bench_wave_result *r, struct error *err)
{
    int rc = bench_wave_run(w, r, err);
    b->failed += r->failed;
    if (r->failed) {
        fprintf(stderr, "lm-bench: %s: %lld requests failed, the first one: %s\n", who,
                (long long)r->failed, r->why);
    }
    if (rc < 0) error_prefix(err, rc, who);
    if (rc == 0 && r->requests == 0) rc = error_set(err, E_UPSTREAM, "%s answered nothing", who);
    if (rc < 0) bench_wave_result_deinit(r);
    return rc;
}

static int measure_requests(struct proxy_bench *b, const struct bench_proxy_process *p,
                            struct error *err)
{
    struct bench_wave w = {.connections = 64, .chunks = 8, .warm_ms = 200, .run_ms = 1000};
    struct bench_wave_result r;
    wave_to(&w, p);
    int rc = run_wave(b, &w, bench_proxy_names[p->kind], &r, err);
    if (rc < 0) return rc;
    note(b, REQUEST_CPU, p->kind, (double)r.cpu_ns * 1e-3 / (double)r.requests);
    note(b, REQUEST_RATE, p->kind, (double)r.requests / r.seconds);
    bench_wave_result_deinit(&r);
    return 0;
}

static int measure_paced(struct proxy_bench *b, const struct bench_proxy_process *p,
                         struct error *err)
{
    struct bench_wave w = {.connections = 256,
                           .stream = true,
                           .chunks = 64,
                           .gap_ms = 10,
                           .requests = 512,
                           .spread_ms = 10};
    struct bench_wave_result r;
    wave_to(&w, p);
    int rc = run_wave(b, &w, bench_proxy_names[p->kind], &r, err);
    if (rc < 0) return rc;
    note(b, PACED_CPU, p->kind, (double)r.cpu_ns * 1e-3 / (double)r.chunks);
    note(b, PACED_FIRST, p->kind, bench_times_at(&r.first, 0.99) * 1e-3);
    note(b, PACED_P50, p->kind, bench_times_at(&r.transit, 0.5) * 1e-3);
    note(b, PACED_P99, p->kind, bench_times_at(&r.transit, 0.99) * 1e-3);
    bench_wave_result_deinit(&r);
    return 0;
}

static int measure_queued(struct proxy_bench *b, const struct bench_proxy_process *p,
                          struct error *err)
{
    struct bench_wave w = {.connections = 32, .stream = true, .chunks = 64, .requests = 3200};
    struct bench_wave_result r;
    wave_to(&w, p);
    int rc = run_wave(b, &w, bench_proxy_names[p->kind], &r, err);
    if (rc < 0) return rc;
    note(b, QUEUED_CPU, p->kind, (double)r.cpu_ns * 1e-3 / (double)r.chunks);
    note(b, QUEUED_RATE, p->kind, (double)r.chunks / r.seconds);
    bench_wave_result_deinit(&r);
    return 0;
}

/* Quantiles at so many connections, in ms; p NULL: without a proxy. */
static int measure_latency(struct proxy_bench *b, const struct bench_proxy_process *p,
                           int connections, double *p50, double *p99, struct error *err)
{
    struct bench_wave w = {
        .connections = connections, .chunks = 8, .warm_ms = 100, .run_ms = 400, .port_count = 2};
    struct bench_wave_result r;
    memcpy(w.port, b->mocks.port, sizeof w.port);
    if (p) wave_to(&w, p);
    int rc = run_wave(b, &w, p ? bench_proxy_names[p->kind] : "direct", &r, err);
    if (rc < 0) return rc;
    *p50 = bench_times_at(&r.latency, 0.5) * 1e-3;
    *p99 = bench_times_at(&r.latency, 0.99) * 1e-3;
    bench_wave_result_deinit(&r);
    return 0;
}

static int measure_held(struct proxy_bench *b, const struct bench_proxy_process *p,
                        struct error *err)
{
    struct bench_wave w = {.connections = b->held_streams,
                           .stream = true,
                           .chunks = 6,
                           .gap_ms = 1000,
                           .requests = b->held_streams,
                           .spread_ms = 1000};
    struct bench_wave_result r;
    wave_to(&w, p);
    int rc = run_wave(b, &w, bench_proxy_names[p->kind], &r, err);
    if (rc < 0) return rc;
    note(b, HELD_MEMORY, p->kind, (r.rss_peak_kb - r.rss_idle_kb) / b->held_streams);
    note(b, HELD_CPU, p->kind, (double)r.cpu_ns * 1e-3 / (double)r.chunks);
    note(b, HELD_P50, p->kind, bench_times_at(&r.transit, 0.5) * 1e-3);
    note(b, HELD_P99, p->kind, bench_times_at(&r.transit, 0.99) * 1e-3);
    note(b, HELD_OPEN, p->kind, r.open_max);
    bench_wave_result_deinit(&r);
    return 0;
}

/* ---- rounds ---- */

/* All that is alive is measured in turns. */
static int latency_round(struct proxy_bench *b, struct bench_proxy_process *all, struct error *err)
{
    static const int counts[] = {1, 16};
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        double direct50, direct99, p50, p99;
        int rc = measure_latency(b, NULL, counts[i], &direct50, &direct99, err);
        for (int k = 0; k < BENCH_PROXY_KINDS && rc == 0; k++) {
            if (!all[k].pid) continue;
            rc = measure_latency(b, &all[k], counts[i], &p50, &p99, err);
            if (rc < 0) return rc;
            note(b, i ? ADDED_16_P50 : ADDED_1_P50, all[k].kind, p50 - direct50);
            note(b, i ? ADDED_16_P99 : ADDED_1_P99, all[k].kind, p99 - direct99);
        }
        if (rc < 0) return rc;
    }
    return 0;
}

static int one_round(struct proxy_bench *b, struct bench_proxy_process *all, struct error *err)
{
    static int (*const measures[])(struct proxy_bench *, const struct bench_proxy_process *,
                                   struct error *) = {
        [MODE_REQUESTS] = measure_requests,
        [MODE_PACED] = measure_paced,
        [MODE_QUEUED] = measure_queued,
    };
    for (size_t m = 0; m < ARRAY_LEN(measures); m++) {
        for (int k = 0; k < BENCH_PROXY_KINDS; k++) {
            if (!b->modes[m] || !all[k].pid) continue;
            int rc = measures[m](b, &all[k], err);
            if (rc < 0) return rc;
        }
    }
    return b->modes[MODE_LATENCY] ? latency_round(b, all, err) : 0;
}

/* Those that are measured stand first. */
static int kinds(const struct proxy_bench *b)
{
    return b->o->tls ? BENCH_PROXY_KINDS : BENCH_LM_PROXY_TLS;
}

static int start(struct proxy_bench *b, int kind, struct bench_proxy_process *p, struct error *err)
{
    int rc = bench_proxy_start(b->o, kind, &b->mocks, b->proxy_cpu, p, err);
    b->here[kind] = rc == 0;
    if (rc < 0) {
        printf("%s: skipped: %s\n", bench_proxy_names[kind], err->text);
        return bench_proxy_program(kind) == BENCH_LM_PROXY
                   ? rc
                   : 0; // without peers there are figures, but no ratios
    }
    return 0;
}

static int run_rounds(struct proxy_bench *b, struct error *err)
{
    struct bench_proxy_process all[BENCH_PROXY_KINDS] = {{0}};
    int rc = 0;
    for (int k = 0; k < kinds(b) && rc == 0; k++)
        rc = start(b, k, &all[k], err);
    for (int64_t i = 0; i < b->o->rounds && rc == 0; i++)
        rc = one_round(b, all, err);
    for (int k = 0; k < BENCH_PROXY_KINDS; k++)
        bench_proxy_stop(&all[k]);
    return rc;
}

/* Once, each in a process of its own: memory only ever grows, and descriptors are scarce. */
static int run_held(struct proxy_bench *b, struct error *err)
{
    int rc = 0;
    for (int k = 0; k < kinds(b) && rc == 0; k++) {
        struct bench_proxy_process p = {0};
        rc = start(b, k, &p, err);
        if (rc == 0 && p.pid) rc = measure_held(b, &p, err);
        bench_proxy_stop(&p);
    }
    return rc;
}

/* ---- the table ---- */

static void print_table(const struct proxy_bench *b)
{
    printf("%-42s", "");
    for (int k = 0; k < kinds(b); k++)
        printf(" %9s", bench_proxy_names[k]);
    printf("   of haproxy  of nginx%s  target\n", b->o->tls ? "  TLS/plain" : "");
    for (int f = 0; f < FIGURES; f++) {
        if (!b->modes[figures[f].mode]) continue;
        printf("%-42s", figures[f].name);
        double value[BENCH_PROXY_KINDS];
        for (int k = 0; k < kinds(b); k++) {
            const struct bench_samples *s = &b->samples[f][k];
            value[k] = s->count ? bench_samples_median(s) : -1;
            bool large = value[k] >= 1000;
            if (s->count) printf(" %9.*f", large ? 0 : value[k] < 10 ? 3 : 2, value[k]);
            if (!s->count) printf(" %9s", "-");
        }
        for (int k = BENCH_HAPROXY; k <= BENCH_NGINX; k++) {
            if (value[k] > 0) printf("  %9.2f", value[BENCH_LM_PROXY] / value[k]);
            if (value[k] <= 0) printf("  %9s", "-");
        }
        if (b->o->tls) printf("  %9.2f", value[BENCH_LM_PROXY_TLS] / value[BENCH_LM_PROXY]);
        printf("  %s\n", figures[f].target);
    }
}

/* ---- the command ---- */

static int parse_modes(struct proxy_bench *b, const char *only)
{
    struct str rest = str_of(only), item;
    while (str_split(&rest, ',', &item)) {
        int m = 0;
        while (m < MODES && !str_equal(str_trim(item), str_of(mode_names[m])))
            m++;
        if (m == MODES) return -1;
        b->modes[m] = true;
    }
    return 0;
}

static void choose_cores(struct proxy_bench *b)
{
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    b->proxy_cpu = count > 1 ? 0 : -1;
    b->load_cpu = count > 1 ? 1 : -1;
    if (count < 2) printf("one processor only: proxies, mocks and load share it\n");
}

static void choose_streams(struct proxy_bench *b, uint64_t descriptors)
{
    int most = (int)(descriptors / 2) - 100; // a proxy wants two per stream
    b->held_streams = b->o->streams > most ? most : (int)b->o->streams;
    if (!b->modes[MODE_HELD] || b->held_streams == b->o->streams) return;
    printf("held: %d streams instead of %lld: a process may open %llu files\n", b->held_streams,
           (long long)b->o->streams, (unsigned long long)descriptors);
}

int bench_proxy(const struct bench_options *o)
{
    static struct proxy_bench b;
    struct error err = {0};
    b = (struct proxy_bench){.o = o};
    if (parse_modes(&b, o->only) < 0) {
        fprintf(stderr, "lm-bench: --only takes requests, paced, queued, latency and held\n");
        return EXIT_USAGE;
    }
    choose_cores(&b);
    choose_streams(&b, loop_raise_nofile());
    int rc = bench_mocks_start(&b.mocks, b.load_cpu, &err);
    bench_pin(b.load_cpu);
    bool rounds = b.modes[MODE_REQUESTS] || b.modes[MODE_PACED] || b.modes[MODE_QUEUED] ||
                  b.modes[MODE_LATENCY];
    if (rc == 0 && rounds) rc = run_rounds(&b, &err);
    if (rc == 0 && b.modes[MODE_HELD]) rc = run_held(&b, &err);
    bench_mocks_stop(&b.mocks);
    if (rc < 0) {
        fprintf(stderr, "lm-bench: %s\n", err.text);
        return EXIT_FAILURE;
    }
    printf("medians of %lld rounds (held: one); proxies on processor %d, load and mocks on %d; "
           "%lld requests failed\n",
           (long long)o->rounds, b.proxy_cpu, b.load_cpu, (long long)b.failed);
    print_table(&b);
    return b.failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
