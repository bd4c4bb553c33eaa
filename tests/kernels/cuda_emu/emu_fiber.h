/* emu_fiber.h - stacks that one OS thread switches between: some 20 ns a switch where we write it
 * ourselves (x86-64), ucontext elsewhere. Sanitizers are told of each switch by the caller. */
#ifndef LM_CUDA_EMU_FIBER_H
#define LM_CUDA_EMU_FIBER_H

#include <stddef.h>

#ifndef __x86_64__
#include <ucontext.h>
#endif

struct emu_fiber {
#ifdef __x86_64__
    void *sp; // of a fiber that doesn't run
#else
    ucontext_t context;
#endif
};

#ifdef __cplusplus
extern "C" {
#endif

/* The first switch to it calls entry(), which must not return, on this stack. */
void emu_fiber_prepare(struct emu_fiber *fiber, void *stack, size_t bytes, void (*entry)(void));
void emu_fiber_switch(struct emu_fiber *from, struct emu_fiber *to);

#ifdef __cplusplus
}
#endif

#endif
