/* cuda_emu_death.cuh - running, in a child, what must end the process. */
#ifndef LM_CUDA_EMU_DEATH_CUH
#define LM_CUDA_EMU_DEATH_CUH

#include <signal.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/test.h"

/* What `body` prints to stderr until it ends, and whether it was ended. */
static inline std::string last_words(void (*body)(), bool *died)
{
    int ends[2];
    NEED(pipe(ends) == 0);
    fflush(stdout);
    pid_t child = fork();
    NEED(child >= 0);
    if (child == 0) {
        dup2(ends[1], 2);
        close(ends[0]);
        signal(SIGABRT, SIG_DFL);
        body();
        _exit(0);
    }
    close(ends[1]);
    std::string words;
    char part[4096];
    for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;)
        words.append(part, (size_t)n);
    close(ends[0]);
    int status = 0;
    NEED(waitpid(child, &status, 0) == child);
    *died = !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return words;
}

static inline void expect_death(const char *name, void (*body)(), const char *words)
{
    bool died = false;
    std::string got = last_words(body, &died);
    if (!died || got.find(words) == std::string::npos) {
        test_failures++;
        printf("%s: %s, expected words '%s':\n%s\n", name, died ? "died" : "lived", words,
               got.c_str());
    }
}

#define EXPECT_DEATH(words, ...) \
    expect_death(                \
        #__VA_ARGS__, [] { __VA_ARGS__; }, words)

#endif
