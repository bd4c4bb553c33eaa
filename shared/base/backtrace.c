/* backtrace.c - the last words of a process.
 *
 * Rules:
 *  1. Inside the handler only async-signal-safe calls: no stdio, no allocation. backtrace() loads
 *     libgcc on its first call, so backtrace_install() makes that call.
 *  2. One thread reports. Others that crash meanwhile wait to be ended by it.
 *  3. The handlers that stood before (a sanitizer's, or the default) get the signal afterwards: the
 *     exit status and core file are those of the original signal. */
#include "shared/base/backtrace.h"

#include "shared/base/check.h"
#include "shared/base/log.h"

#include <execinfo.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define FRAMES_MAX       64
#define HANDLER_STACK    ((size_t)64 << 10)
#define ADDRESS_HEX_SIZE 19 // "0x", 16 digits, 0

static const struct {
    int number;
    const char *name;
} fatal_signals[] = {
    {SIGSEGV, "SIGSEGV (bad memory access)"},
    {SIGBUS, "SIGBUS (bad memory access)"},
    {SIGFPE, "SIGFPE (arithmetic exception)"},
    {SIGILL, "SIGILL (illegal instruction)"},
    {SIGABRT, "SIGABRT (aborted)"},
};

static const char *program_name;
static struct sigaction previous[ARRAY_LEN(fatal_signals)];
static atomic_flag reporting = ATOMIC_FLAG_INIT;
static atomic_bool installed;
static _Alignas(16) char handler_stack[HANDLER_STACK];

static void put(int fd, const char *text)
{
    if (write(fd, text, strlen(text)) < 0) return; // nowhere left to say it
}

static void format_address(uintptr_t value, char out[ADDRESS_HEX_SIZE])
{
    out[0] = '0';
    out[1] = 'x';
    for (int i = 0; i < 16; i++) {
        out[2 + i] = "0123456789abcdef"[(value >> (60 - 4 * i)) & 15];
    }
    out[18] = 0;
}

void backtrace_print(int fd)
{
    void *frames[FRAMES_MAX];
    int count = backtrace(frames, FRAMES_MAX);
    put(fd, "backtrace (addr2line -fe BINARY OFFSET names the lines):\n");
    backtrace_symbols_fd(frames, count, fd);
}

bool backtrace_is_installed(void)
{
    return atomic_load(&installed);
}

static void report(const char *signal_name, const siginfo_t *info)
{
    char address[ADDRESS_HEX_SIZE];
    put(STDERR_FILENO, "\n*** ");
    put(STDERR_FILENO, program_name);
    put(STDERR_FILENO, " " LM_VERSION " crashed: ");
    put(STDERR_FILENO, signal_name);
    if (info->si_signo != SIGABRT && info->si_code > 0) {
        format_address((uintptr_t)info->si_addr, address);
        put(STDERR_FILENO, " at ");
        put(STDERR_FILENO, address);
    }
    put(STDERR_FILENO, "\n");
    backtrace_print(STDERR_FILENO);
    put(STDERR_FILENO, "last log lines:\n");
    log_dump_recent(STDERR_FILENO);
    put(STDERR_FILENO, "*** end of crash report\n");
}

static void on_fatal_signal(int number, siginfo_t *info, void *context)
{
    (void)context;
    size_t i = 0;
    while (i < ARRAY_LEN(fatal_signals) - 1 && fatal_signals[i].number != number)
        i++;
    if (atomic_flag_test_and_set(&reporting)) {
        for (;;)
            pause();
    }
    report(fatal_signals[i].name, info);
    sigaction(number, &previous[i], NULL);
    /* A fault happens again when we return, now with the handler that stood before. A signal that
     * somebody sent has to be sent again; it stays blocked until we return. */
    if (info->si_code <= 0) raise(number);
    atomic_flag_clear(&reporting);
}

void backtrace_install(const char *program)
{
    void *frame;
    backtrace(&frame, 1);
    program_name = program;
    stack_t stack = {.ss_sp = handler_stack, .ss_size = sizeof handler_stack};
    CHECK(sigaltstack(&stack, NULL) == 0);
    struct sigaction action = {.sa_sigaction = on_fatal_signal,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < ARRAY_LEN(fatal_signals); i++) {
        CHECK(sigaction(fatal_signals[i].number, &action, &previous[i]) == 0);
    }
    atomic_store(&installed, true);
}
