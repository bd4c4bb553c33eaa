/* bench_prefix.c - what a router spends on a request before it knows where to send it: reading the
 * body (peek) and looking its beginnings up (prefix table). One thread, and its processor time. Texts
 * are larger than the nearest caches; beside them stands how fast memchr() walks over the same bytes,
 * which is as fast as anything that looks at each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/bench/bench.h"

#include "proxy/peek.h"
#include "proxy/prefix_table.h"
#include "shared/base/check.h"
#include "shared/base/hash.h"

#define ROUNDS     9
#define TEXT_BYTES ((size_t)8 << 20)
#define BLOCKS     16
#define LOOKUPS    20000
#define TABLE      ((uint64_t)1 << 20)
#define AGENTS     64

/* Of this thread only: what others do to the machine's cores doesn't count. */
static uint64_t cpu_ns(void)
{
    struct timespec t;
    CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- peek ---- */

static void peek_once(struct str body)
{
    struct peek_options options = {.route = PEEK_CHAT};
    struct peek peek;
    struct api_error error;
    struct arena arena;
    arena_init(&arena);
    CHECK(peek_body(&arena, body, &options, &peek, &error) == 0);
    arena_deinit(&arena);
}

static void print_body(struct buf *out, const char *piece, size_t bytes)
{
    size_t len = strlen(piece);
    buf_clear(out);
    buf_append_str(out, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"");
    for (size_t n = 0; n < bytes; n += len)
        buf_append(out, piece, len);
    buf_append_str(out, "\"}],\"stream\":true}");
}

static void bench_text(const char *name, const char *piece)
{
    struct buf body;
    struct bench_samples ours = {0}, peer = {0};
    buf_init(&body, BUF_MAX_INTERNAL);
    print_body(&body, piece, TEXT_BYTES);
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t start = cpu_ns();
        peek_once(buf_str(&body));
        uint64_t middle = cpu_ns();
        CHECK(memchr(body.data, 1, body.len) == NULL);
        uint64_t end = cpu_ns();
        bench_samples_add(&ours, (double)body.len * 1e3 / (double)(middle - start));
        bench_samples_add(&peer, (double)body.len * 1e3 / (double)(end - middle));
    }
    bench_print_row(name, "MB/s", &ours, &peer);
    buf_deinit(&body);
}

static void bench_body(const char *name, struct str body)
{
    struct bench_samples ours = {0};
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t start = cpu_ns();
        for (int k = 0; k < LOOKUPS; k++)
            peek_once(body);
        bench_samples_add(&ours, (double)(cpu_ns() - start) / LOOKUPS);
    }
    bench_print_row(name, "ns", &ours, NULL);
}

static void bench_bodies(void)
{
    static const char chat[] =
        "{\"model\": \"SmolLM2-135M-Instruct\", \"messages\": [{\"role\": \"system\", \"content\": "
        "\"You are a helpful assistant.\"}, {\"role\": \"user\", \"content\": \"Why is the sky "
        "blue, "
        "and why does it turn red in the evening? Answer in one short sentence.\"}], "
        "\"temperature\": 0.7, \"max_tokens\": 64, \"stream\": true}";
    struct buf body;
    buf_init(&body, BUF_MAX_INTERNAL);
    bench_body("peek, chat of 300 bytes", STR(chat));
    print_body(&body, "The quick brown fox jumps over the lazy dog. ", 16 << 10);
    bench_body("peek, chat of 16 KiB", buf_str(&body));
    buf_deinit(&body);
    bench_text("peek, plain text", "The quick brown fox jumps over the lazy dog. ");
    bench_text("peek, lines of code", "    for (int i = 0; i < n; i++)\\n        sum += a[i];\\n");
    bench_text("peek, UTF-8 beyond ASCII", "\xe4\xb8\xad\xe6\x96\x87\xe5\xad\x97\xe7\xac\xa6");
    bench_text("peek, the same in escapes", "\\u4e2d\\u6587\\u5b57\\u7b26");
}

/* ---- the table ---- */

/* Chain number `which`: its first `shared` marks are those of all. */
static void make_chain(uint64_t which, int shared, struct prefix_mark chain[BLOCKS])
{
    for (int i = 0; i < BLOCKS; i++) {
        uint64_t name = i < shared ? 0 : which;
        chain[i].hash = hash_mix(hash_mix(name + 1) + (uint64_t)i + 1) | 1;
        chain[i].bytes = (uint64_t)(i + 1) * 1024;
    }
}

static void fill_table(struct prefix_table *t)
{
    struct prefix_mark chain[BLOCKS];
    for (uint64_t which = 1; which <= TABLE / BLOCKS * 3 / 4; which++) {
        make_chain(which, 4, chain);
        for (int i = 0; i < BLOCKS; i++) {
            int column = i < 4 ? (int)(which % AGENTS) : (int)(hash_mix(which) % AGENTS);
            prefix_table_add(t, chain[i].hash, column, (uint32_t)(i + 1) * 256);
        }
    }
}

/* first: of the chains that are looked up, one after the other. */
static void bench_match(struct prefix_table *t, const char *name, uint64_t first, int shared)
{
    struct bench_samples ours = {0};
    struct prefix_mark *chains = xcalloc((size_t)LOOKUPS * BLOCKS, sizeof *chains);
    struct prefix_match out[PREFIX_MATCHES];
    for (uint64_t k = 0; k < LOOKUPS; k++)
        make_chain(first + k, shared, &chains[k * BLOCKS]);
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t start = cpu_ns();
        for (size_t k = 0; k < LOOKUPS; k++)
            prefix_table_match(t, &chains[k * BLOCKS], BLOCKS, 1000, out);
        bench_samples_add(&ours, (double)(cpu_ns() - start) / LOOKUPS);
    }
    bench_print_row(name, "ns", &ours, NULL);
    free(chains);
}

static void bench_predict(struct prefix_table *t)
{
    struct bench_samples ours = {0};
    struct prefix_mark chain[BLOCKS];
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t start = cpu_ns();
        for (uint64_t k = 0; k < LOOKUPS; k++) {
            make_chain(k + 1, 4, chain);
            prefix_table_predict(t, chain, BLOCKS, 0.25, (int)(k % AGENTS), 1000);
        }
        bench_samples_add(&ours, (double)(cpu_ns() - start) / LOOKUPS);
    }
    bench_print_row("predict, 16 marks", "ns", &ours, NULL);
}

static void bench_clear(struct prefix_table *t)
{
    struct bench_samples ours = {0};
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t start = cpu_ns();
        prefix_table_clear_column(t, i);
        bench_samples_add(&ours, (double)(cpu_ns() - start));
    }
    bench_print_row("clear an agent", "ns", &ours, NULL);
}

int bench_prefix(void)
{
    bench_bodies();
    struct prefix_table *t = prefix_table_create(TABLE);
    fill_table(t);
    struct prefix_table_stats stats;
    prefix_table_get_stats(t, &stats);
    printf("table: %llu of %llu entries, %llu bitmaps, %llu evicted, %.1f MiB\n",
           (unsigned long long)stats.entries, (unsigned long long)stats.entries_max,
           (unsigned long long)stats.bitmaps, (unsigned long long)stats.evicted,
           (double)stats.memory_bytes / (1 << 20));
    bench_match(t, "match, 16 marks, all known", 1, 4);
    bench_match(t, "match, 16 marks, 4 known", 1 << 30, 4);
    bench_match(t, "match, 16 marks, none", 1 << 30, 0);
    bench_predict(t);
    bench_clear(t);
    prefix_table_destroy(t);
    return 0;
}
