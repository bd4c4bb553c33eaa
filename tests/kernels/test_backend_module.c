/* Backends in modules: what backend_find() says where there is none, where it is something else, and where
 * it can't work; each in a child, since modules are looked for once. LM_TEST_CUDA_MODULE names the
 * module of the emulated GPU. */
#include "kernels/backend.h"

#include <sys/wait.h>
#include <unistd.h>

#include "tests/test.h"

struct scenario {
    const char *module, *devices;
    const char *words; // of the reason; NULL: usable
};

static void run(const struct scenario *s)
{
    fflush(stdout);
    pid_t child = fork();
    NEED(child >= 0);
    if (child == 0) {
        NEED(setenv("LM_CUDA_MODULE", s->module, 1) == 0);
        NEED(setenv("LM_CUDA_EMU_DEVICES", s->devices, 1) == 0);
        const struct backend_ops *cuda = backend_find("cuda"), *best = backend_find("auto");
        const char *why = backend_why_not("cuda");
        bool right = s->words ? !cuda && why && strstr(why, s->words) && best == backend_find("cpu")
                              : cuda && !why && best == cuda && !strcmp(cuda->name, "cuda");
        if (!right) printf("'%s': %s\n", s->module, why ? why : "usable");
        fflush(stdout);
        _exit(!right);
    }
    int status = 0;
    NEED(waitpid(child, &status, 0) == child);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_not_usable(void)
{
    run(&(struct scenario){"/nowhere/liblm-cuda.so", "1", "/nowhere/liblm-cuda.so"});
    run(&(struct scenario){"libm.so.6", "1", "has no lm_backend_module_"});
    run(&(struct scenario){"/dev/null", "1", "/dev/null"});
}

static void test_emulated(void)
{
    const char *module = getenv("LM_TEST_CUDA_MODULE");
    if (!module) return; // no C++ compiler, or a thread sanitizer
    run(&(struct scenario){module, "1", NULL});
    run(&(struct scenario){module, "0", "no device"});
}

static void test_names(void)
{
    EXPECT(backend_find("gpu") == NULL);
    EXPECT_STR(backend_why_not("gpu"), "no such backend");
    EXPECT(backend_why_not("cpu") == NULL);
    EXPECT_STR(backend_name(0), "cuda");
    EXPECT_STR(backend_name(1), "cpu");
    EXPECT(backend_name(2) == NULL && backend_name(-1) == NULL);
}

int main(void)
{
    RUN(test_not_usable);
    RUN(test_emulated);
    RUN(test_names);
    return TEST_END();
}
