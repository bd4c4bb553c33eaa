#include "tests/bench/bench_grammar_peer.h"

#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared/base/check.h"

extern char **environ;

static int gone(struct error *err)
{
    return error_set(err, E_UPSTREAM, "the peer ended, or answers something else");
}

int grammar_peer_open(struct grammar_peer *p, const char *path, const char *vocab,
                      struct error *err)
{
    const char *argv[] = {path, vocab, NULL};
    int to[2], from[2];
    posix_spawn_file_actions_t actions;
    *p = (struct grammar_peer){0};
    if (pipe(to) != 0 || pipe(from) != 0)
        return error_set(err, -errno, "pipe: %s", strerror(errno));
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, to[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, from[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, to[1]);
    posix_spawn_file_actions_addclose(&actions, from[0]);
    int rc = posix_spawnp(&p->pid, path, &actions, NULL, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(to[0]);
    close(from[1]);
    p->in = fdopen(to[1], "w");
    p->out = fdopen(from[0], "r");
    CHECK(p->in && p->out);
    if (rc != 0) {
        p->pid = 0;
        return error_set(err, -rc, "can't run '%s': %s", path, strerror(rc));
    }
    char line[64];
    if (!fgets(line, sizeof line, p->out) || sscanf(line, "V %d", &p->vocab) != 1) return gone(err);
    return 0;
}

void grammar_peer_close(struct grammar_peer *p)
{
    if (p->in) fclose(p->in);
    if (p->out) fclose(p->out);
    while (p->pid > 0 && waitpid(p->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    *p = (struct grammar_peer){0};
}

int grammar_peer_schema(struct grammar_peer *p, struct str schema, bool *taken, double *us,
                        struct error *err)
{
    char answer[1024];
    fprintf(p->in, "S " STR_FMT "\n", STR_ARG(schema));
    fflush(p->in);
    if (!fgets(answer, sizeof answer, p->out) || (answer[0] != 'O' && answer[0] != 'E'))
        return gone(err);
    *taken = answer[0] == 'O';
    *us = *taken ? strtod(answer + 1, NULL) : 0;
    return 0;
}

int grammar_peer_follow(struct grammar_peer *p, const int32_t *ids, size_t count,
                        struct grammar_peer_time *times, size_t *taken, struct error *err)
{
    char *line = NULL;
    size_t cap = 0;
    *taken = 0;
    fprintf(p->in, "A");
    for (size_t i = 0; i < count; i++)
        fprintf(p->in, " %d", ids[i]);
    fprintf(p->in, "\n");
    fflush(p->in);
    if (getline(&line, &cap, p->out) < 0) {
        free(line);
        return gone(err);
    }
    for (char *at = line, *end; *taken < count; *taken += 1) {
        times[*taken].whole = strtod(at, &end);
        if (end == at) break;
        times[*taken].alone = strtod(end, &at);
    }
    free(line);
    return 0;
}
