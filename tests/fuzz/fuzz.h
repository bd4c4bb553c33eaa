/* fuzz.h - what a fuzz target is: one function, called with untrusted bytes. It must return, leak
 * nothing and abort on what must not happen (CHECK). libFuzzer calls it with bytes of its own;
 * replay.c calls it with the files of tests/fuzz/corpus/NAME, as an ordinary test. */
#ifndef LM_TESTS_FUZZ_H
#define LM_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
