/* bench_peer.c - llama.cpp's own benchmark programs as the other side of a row. They are built
 * outside this tree (docs/benchmarks.md says how) and run as they are; each call is one sample. */
#include "tests/bench/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared/base/buf.h"
#include "shared/base/check.h"
#include "shared/base/json.h"

extern char **environ;

int bench_run(const char *const *argv, char **out, struct error *err)
{
    int pipes[2];
    posix_spawn_file_actions_t actions;
    pid_t pid;
    struct buf text;
    int status = 0;

    if (pipe(pipes) != 0) return error_set(err, -errno, "pipe: %s", strerror(errno));
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pipes[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, pipes[0]);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    int rc = posix_spawnp(&pid, argv[0], &actions, NULL, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(pipes[1]);
    if (rc != 0) {
        close(pipes[0]);
        return error_set(err, -rc, "cannot run '%s': %s", argv[0], strerror(rc));
    }
    buf_init(&text, 16u << 20);
    for (;;) {
        char chunk[4096];
        ssize_t n = read(pipes[0], chunk, sizeof chunk);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        buf_append(&text, chunk, (size_t)n);
    }
    close(pipes[0]);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        buf_deinit(&text);
        return error_set(err, E_UPSTREAM, "'%s' ended with status %d", argv[0], status);
    }
    *out = buf_detach(&text, NULL);
    return 0;
}

/* Last number of that name in JSON that we don't otherwise need: an array of objects (llama-bench)
 * or one object per line (llama-batched-bench). */
static int find_rate(const char *text, const char *name, double *rate, struct error *err)
{
    const char *brace = NULL;

    for (const char *p = text; (p = strchr(p, '{')); p++) {
        if (strstr(p, name)) brace = p;
    }
    const char *end = brace ? strrchr(brace, '}') : NULL;
    struct json *object = end ? json_parse(brace, (size_t)(end - brace) + 1, err) : NULL;
    const struct json *value = json_get(object, name);
    if (!value || json_type(value) != JSON_NUMBER) {
        json_destroy(object);
        return error_set(err, E_FORMAT, "the peer's output has no number '%s'", name);
    }
    *rate = json_number(value);
    json_destroy(object);
    return 0;
}

static int peer_bench(const struct bench_options *o, int64_t prompt, int64_t generate, double *rate,
                      struct error *err)
{
    char threads[24], p[24], n[24];
    char *out = NULL;

    snprintf(threads, sizeof threads, "%lld", (long long)o->threads);
    snprintf(p, sizeof p, "%lld", (long long)prompt);
    snprintf(n, sizeof n, "%lld", (long long)generate);
    const char *argv[] = {o->peer, "-m", o->model, "-t", threads, "-p",   p,
                          "-n",    n,    "-r",     "1",  "-o",    "json", NULL};
    int rc = bench_run(argv, &out, err);
    if (rc < 0) return rc;
    rc = find_rate(out, "avg_ts", rate, err);
    free(out);
    return rc;
}

int bench_peer_prefill(const struct bench_options *o, double *rate, struct error *err)
{
    return peer_bench(o, o->prefill, 0, rate, err);
}

int bench_peer_decode(const struct bench_options *o, double *rate, struct error *err)
{
    return peer_bench(o, 0, o->decode, rate, err);
}

int bench_peer_batch(const struct bench_options *o, double *rate, struct error *err)
{
    char threads[24], context[24], generate[24], parallel[24];
    char *out = NULL;

    snprintf(threads, sizeof threads, "%lld", (long long)o->threads);
    snprintf(context, sizeof context, "%lld", (long long)(o->batch * (128 + o->decode) + 64));
    snprintf(generate, sizeof generate, "%lld", (long long)o->decode);
    snprintf(parallel, sizeof parallel, "%lld", (long long)o->batch);
    const char *argv[] = {
        o->peer_batched, "-m",  o->model, "-t",     threads, "-c",     context,
        "-npp",          "128", "-ntg",   generate, "-npl",  parallel, "--output-format",
        "jsonl",         NULL};
    int rc = bench_run(argv, &out, err);
    if (rc < 0) return rc;
    rc = find_rate(out, "speed_tg", rate, err);
    free(out);
    return rc;
}
