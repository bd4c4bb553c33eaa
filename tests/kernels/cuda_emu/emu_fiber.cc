#include "tests/kernels/cuda_emu/emu_fiber.h"

#include <stdint.h>
#include <string.h>

#ifdef __x86_64__

/* Callee-saved registers of the System V ABI go to the old stack and come from the new one. */
asm(R"(
    .text
    .globl emu_fiber_swap_stacks
    .type emu_fiber_swap_stacks, @function
emu_fiber_swap_stacks:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emu_fiber_swap_stacks, .-emu_fiber_swap_stacks
)");
extern "C" void emu_fiber_swap_stacks(void **save_sp, void *to_sp);

enum { SAVED_REGISTERS = 6 };

void emu_fiber_prepare(struct emu_fiber *fiber, void *stack, size_t bytes, void (*entry)(void))
{
    void **sp = (void **)(((uintptr_t)stack + bytes) & ~(uintptr_t)15);
    *--sp = nullptr; // where entry's return address would be: keeps rsp + 8 a multiple of 16
    *--sp = (void *)entry;
    sp -= SAVED_REGISTERS;
    memset(sp, 0, SAVED_REGISTERS * sizeof *sp);
    fiber->sp = sp;
}

void emu_fiber_switch(struct emu_fiber *from, struct emu_fiber *to)
{
    emu_fiber_swap_stacks(&from->sp, to->sp);
}

#else

void emu_fiber_prepare(struct emu_fiber *fiber, void *stack, size_t bytes, void (*entry)(void))
{
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = stack;
    fiber->context.uc_stack.ss_size = bytes;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, entry, 0);
}

void emu_fiber_switch(struct emu_fiber *from, struct emu_fiber *to)
{
    swapcontext(&from->context, &to->context);
}

#endif
