/* backtrace.h - crash reports: version, signal, backtrace, last log lines, on stderr. */
#ifndef LM_BASE_BACKTRACE_H
#define LM_BASE_BACKTRACE_H

#include <stdbool.h>

/* Install handlers for SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT; they report and re-raise. Call
 * once, from main(). The calling thread also gets a stack for the handler, so that its stack
 * overflows are reported too. `program` must stay valid. */
void backtrace_install(const char *program);
bool backtrace_is_installed(void);
/* Print the calling thread's frames to fd; async-signal-safe enough for a crash handler. */
void backtrace_print(int fd);

#endif
