/* grammar_automaton.h - a grammar made deterministic, one state at a time as texts need them.
 *
 * A thread is a state of the nondeterministic automaton and the stack of calls that it returns to.
 * Stacks are interned, so two threads are the same when their numbers are; a set of threads is a
 * state here, found again by its content. The next state of a byte is computed once and remembered.
 *
 * Bounded: beyond AUTOMATON_STATES_MAX states or stacks everything is dropped and begins anew
 * (`generation` counts that); who holds a state number walks its text again. Threads of one state are
 * at most AUTOMATON_THREADS_MAX: those beyond are left out, which takes texts away but never lets a
 * wrong one through, since every thread alone can come to its end. One user at a time. */
#ifndef LM_ENGINE_GRAMMAR_AUTOMATON_H
#define LM_ENGINE_GRAMMAR_AUTOMATON_H

#include "engine/grammar_nfa.h"

#define AUTOMATON_STATES_MAX  8192
#define AUTOMATON_STACKS_MAX  (1 << 16)
#define AUTOMATON_THREADS_MAX 1024

#define AUTOMATON_DEAD        0 // no text that begins so matches
#define AUTOMATON_START       1

struct automaton_thread {
    int32_t state, stack; // stack 0: the outermost rule
};

struct automaton_state {
    uint32_t first; // thread
    uint16_t threads;
    bool accepts;
    /* Any characters of a JSON string may follow, at most that many, and all that may follow beside
     * them is no plain character. 0: not so. */
    int32_t plain_left;
    bool only_plain;
    uint16_t *next; // [256] state + 1; 0: not known yet. NULL: none is
    uint32_t *mask; // the user's (engine/grammar_matcher.c); freed with the state
};

struct automaton;

/* The nfa, finished, stays the caller's and must live as long. */
struct automaton *automaton_create(const struct grammar_nfa *nfa);
void automaton_destroy(struct automaton *a); // NULL is fine

/* State numbers are valid until the generation changes, which only automaton_reserve() does. */
unsigned automaton_generation(const struct automaton *a);
/* Call before a walk: drops everything if less than a quarter of the room is left. */
void automaton_reserve(struct automaton *a);
int automaton_next(struct automaton *a, int state, uint8_t byte);
struct automaton_state *automaton_state(struct automaton *a, int state); // until the next call
/* Bytes of all masks are bounded by their user; this drops them all. */
void automaton_drop_masks(struct automaton *a);

#endif
