/* session_frame.h - records one after another, each found whole, cut off or damaged. Pure.
 *
 *     frame = length (u32) | check of length (u32) | checksum of place and payload (u64) | payload
 *
 * Little-endian. The length has a check of its own, so that a damaged one can't look like the end
 * of a file that a crash cut off. */
#ifndef LM_AGENT_SESSION_FRAME_H
#define LM_AGENT_SESSION_FRAME_H

#include <stdint.h>

#include "shared/base/buf.h"

#define SESSION_FRAME_HEAD 16

static inline void session_put_u32(char *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (char)(value >> (8 * i));
}

static inline uint32_t session_get_u32(const char *at)
{
    uint32_t value = 0;
    for (int i = 3; i >= 0; i--)
        value = value << 8 | (unsigned char)at[i];
    return value;
}

/* place: the byte of the file where the frame will begin. */
void session_frame_print(struct buf *out, struct str payload, int64_t place);

/* 1, the payload (within data) and *place behind the frame. 0: data ends here, within a frame, or
 * holds nothing but zeros from here on. E_FORMAT: damaged. */
int session_frame_next(struct str data, int64_t *place, struct str *payload);

#endif
