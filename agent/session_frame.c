#include "agent/session_frame.h"

#include "shared/base/error.h"
#include "shared/base/hash.h"

static uint32_t length_check(uint32_t length, int64_t place)
{
    return (uint32_t)(hash_mix(((uint64_t)length << 32) ^ (uint64_t)place ^ 0x6c6d73657373u) >> 32);
}

static uint64_t checksum(struct str payload, int64_t place)
{
    return hash_mix(hash_bytes(payload.data, payload.len) + (uint64_t)place);
}

void session_frame_print(struct buf *out, struct str payload, int64_t place)
{
    char head[SESSION_FRAME_HEAD];
    uint64_t sum = checksum(payload, place);
    session_put_u32(head, (uint32_t)payload.len);
    session_put_u32(head + 4, length_check((uint32_t)payload.len, place));
    session_put_u32(head + 8, (uint32_t)sum);
    session_put_u32(head + 12, (uint32_t)(sum >> 32));
    buf_append(out, head, sizeof head);
    buf_append(out, payload.data, payload.len);
}

static bool is_zeros(const char *data, int64_t len)
{
    for (int64_t i = 0; i < len; i++) {
        if (data[i] != 0) return false;
    }
    return true;
}

int session_frame_next(struct str data, int64_t *place, struct str *payload)
{
    int64_t left = (int64_t)data.len - *place;
    const char *at = data.data + *place;
    if (left < SESSION_FRAME_HEAD || is_zeros(at, left)) return 0;
    uint32_t length = session_get_u32(at);
    if (session_get_u32(at + 4) != length_check(length, *place)) return E_FORMAT;
    if ((int64_t)length > left - SESSION_FRAME_HEAD) return 0;
    *payload = (struct str){at + SESSION_FRAME_HEAD, length};
    uint64_t sum = (uint64_t)session_get_u32(at + 12) << 32 | session_get_u32(at + 8);
    if (sum != checksum(*payload, *place)) return E_FORMAT;
    *place += SESSION_FRAME_HEAD + (int64_t)length;
    return 1;
}
