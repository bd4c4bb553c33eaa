#include "agent/session_history.h"

#include "shared/base/check.h"

#include <stdlib.h>
#include <string.h>

#define VERSION     1
#define NO_MESSAGES UINT32_MAX
/* version, base, keep_turns, count (u32 each), seed, serial (u64 each), messages, 0 (u32 each) */
#define HEAD_BYTES  40

/* ---- the history ---- */

void session_history_deinit(struct session_history *h)
{
    for (int i = 0; i < h->turn_count; i++)
        free(h->turns[i].messages);
    free(h->turns);
    token_list_deinit(&h->ids);
    *h = (struct session_history){0};
}

void session_history_check(const struct session_history *h)
{
    int end = 0;
    size_t message_bytes = 0;
    for (int i = 0; i < h->turn_count; i++) {
        CHECK(h->turns[i].end >= end);
        end = h->turns[i].end;
        if (h->turns[i].messages) message_bytes += strlen(h->turns[i].messages) + 1;
    }
    CHECK((size_t)end == h->ids.count);
    CHECK(h->message_bytes == message_bytes && h->bytes_owned >= message_bytes);
    CHECK(h->serial >= (uint64_t)h->turn_count);
}

static void count_bytes(struct session_history *h)
{
    h->bytes_owned =
        h->ids.cap * sizeof *h->ids.ids + (size_t)h->turn_cap * sizeof *h->turns + h->message_bytes;
}

static void push_turn(struct session_history *h, struct str messages)
{
    if (h->turn_count == h->turn_cap) {
        h->turn_cap = h->turn_cap ? 2 * h->turn_cap : 4;
        h->turns = xrealloc_array(h->turns, (size_t)h->turn_cap, sizeof *h->turns);
    }
    char *copy = messages.data ? xstrndup(messages.data, messages.len) : NULL;
    if (copy) h->message_bytes += messages.len + 1;
    h->turns[h->turn_count++] = (struct session_turn){(int)h->ids.count, copy};
}

static void pop_turn(struct session_history *h)
{
    char *messages = h->turns[--h->turn_count].messages;
    if (messages) h->message_bytes -= strlen(messages) + 1;
    free(messages);
}

void session_history_copy(struct session_history *to, const struct session_history *from)
{
    *to = (struct session_history){.seed = from->seed, .serial = from->serial};
    int at = 0;
    for (int i = 0; i < from->turn_count; i++) {
        for (; at < from->turns[i].end; at++)
            token_list_push(&to->ids, from->ids.ids[at]);
        push_turn(to, str_of(from->turns[i].messages));
    }
    count_bytes(to);
}

int session_history_turns_within(const struct session_history *h, int tokens)
{
    int count = 0;
    while (count < h->turn_count && (count == 0 ? 0 : h->turns[count - 1].end) < tokens)
        count++;
    return count;
}

bool session_history_is_boundary(const struct session_history *h, int tokens)
{
    if (tokens == 0) return true;
    for (int i = 0; i < h->turn_count; i++) {
        if (h->turns[i].end == tokens) return true;
    }
    return false;
}

void session_history_apply(struct session_history *h, const struct session_step *step)
{
    CHECK(step->base >= 0 && (size_t)step->base <= h->ids.count && step->count >= 0);
    CHECK(step->keep_turns >= 0 && step->keep_turns <= h->turn_count);
    while (h->turn_count > step->keep_turns)
        pop_turn(h);
    /* Ends that lie beyond it move to it; the last one's end is where the new turn begins. */
    int last = h->turn_count - 1;
    for (int i = last; i >= 0 && (i == last || h->turns[i].end > step->base); i--)
        h->turns[i].end = step->base;
    h->ids.count = h->turn_count > 0 ? (size_t)step->base : 0;
    CHECK(h->ids.count == (size_t)step->base);
    for (int i = 0; i < step->count; i++)
        token_list_push(&h->ids, step->ids[i]);
    push_turn(h, step->messages);
    h->seed = step->seed;
    h->serial = step->serial;
    count_bytes(h);
}

/* ---- records ---- */

static void put_u32(struct buf *out, uint32_t value)
{
    unsigned char bytes[4];
    for (int i = 0; i < 4; i++)
        bytes[i] = (unsigned char)(value >> (8 * i));
    buf_append(out, bytes, sizeof bytes);
}

static void put_u64(struct buf *out, uint64_t value)
{
    put_u32(out, (uint32_t)value);
    put_u32(out, (uint32_t)(value >> 32));
}

static uint32_t get_u32(const char *at)
{
    uint32_t value = 0;
    for (int i = 3; i >= 0; i--)
        value = value << 8 | (unsigned char)at[i];
    return value;
}

static uint64_t get_u64(const char *at)
{
    return (uint64_t)get_u32(at + 4) << 32 | get_u32(at);
}

void session_record_print(struct buf *out, const struct session_step *step)
{
    put_u32(out, VERSION);
    put_u32(out, (uint32_t)step->base);
    put_u32(out, (uint32_t)step->keep_turns);
    put_u32(out, (uint32_t)step->count);
    put_u64(out, step->seed);
    put_u64(out, step->serial);
    put_u32(out, step->messages.data ? (uint32_t)step->messages.len : NO_MESSAGES);
    put_u32(out, 0);
    for (int i = 0; i < step->count; i++)
        put_u32(out, (uint32_t)step->ids[i]);
    if (step->messages.data) buf_append(out, step->messages.data, step->messages.len);
}

void session_history_print(const struct session_history *h,
                           void (*put)(void *arg, struct str record), void *arg)
{
    struct buf record;
    buf_init(&record, BUF_MAX_INTERNAL);
    int base = 0;
    for (int i = 0; i < h->turn_count; i++) {
        int turns_behind = h->turn_count - 1 - i;
        struct session_step step = {
            .base = base,
            .keep_turns = i,
            .ids = h->ids.ids + base,
            .count = h->turns[i].end - base,
            .seed = h->seed,
            .serial = h->serial - (uint64_t)turns_behind,
            .messages = str_of(h->turns[i].messages),
        };
        buf_clear(&record);
        session_record_print(&record, &step);
        put(arg, buf_str(&record));
        base = h->turns[i].end;
    }
    buf_deinit(&record);
}

static int check_record(const struct session_history *h, struct str record,
                        const struct session_limits *limits, struct error *err)
{
    if (record.len < HEAD_BYTES) return error_set(err, E_FORMAT, "a record is too short");
    const char *at = record.data;
    uint32_t version = get_u32(at), base = get_u32(at + 4), keep = get_u32(at + 8);
    uint64_t count = get_u32(at + 12), messages = get_u32(at + 32), serial = get_u64(at + 24);
    if (version != VERSION) return error_set(err, E_FORMAT, "a record has version %u", version);
    if (messages == NO_MESSAGES) messages = 0;
    if (HEAD_BYTES + 4 * count + messages != record.len) {
        return error_set(err, E_FORMAT, "a record's length is wrong");
    }
    bool fits = base <= h->ids.count && keep <= (uint32_t)h->turn_count &&
                keep <= SESSION_TURNS_MAX && (keep > 0 || base == 0) && serial > h->serial;
    if (!fits) return error_set(err, E_FORMAT, "a record doesn't follow the one before it");
    /* The turns that stay must reach up to the base, else tokens would belong to none. */
    if (keep > 0 && (uint32_t)h->turns[keep - 1].end < base) {
        return error_set(err, E_FORMAT, "a record doesn't follow the one before it");
    }
    if (serial > SESSION_SERIAL_MAX) {
        return error_set(err, E_FORMAT, "a record has an impossible number");
    }
    if (base + count > (uint64_t)limits->tokens_max) {
        return error_set(err, E_FORMAT, "the history has more than %d tokens", limits->tokens_max);
    }
    for (uint64_t i = 0; i < count; i++) {
        if (get_u32(at + HEAD_BYTES + 4 * i) >= (uint32_t)limits->vocab_size) {
            return error_set(err, E_FORMAT, "a record has tokens that the model hasn't");
        }
    }
    if (messages > 0 && memchr(at + HEAD_BYTES + 4 * count, 0, messages)) {
        return error_set(err, E_FORMAT, "a record's messages are not text");
    }
    return 0;
}

int session_record_apply(struct session_history *h, struct str record,
                         const struct session_limits *limits, struct error *err)
{
    int rc = check_record(h, record, limits, err);
    if (rc != 0) return rc;
    const char *at = record.data;
    uint32_t count = get_u32(at + 12), messages = get_u32(at + 32);
    int32_t *ids = xcalloc(count > 0 ? count : 1, sizeof *ids);
    for (uint32_t i = 0; i < count; i++)
        ids[i] = (int32_t)get_u32(at + HEAD_BYTES + 4 * (size_t)i);
    struct session_step step = {
        .base = (int)get_u32(at + 4),
        .keep_turns = (int)get_u32(at + 8),
        .ids = ids,
        .count = (int)count,
        .seed = get_u64(at + 16),
        .serial = get_u64(at + 24),
    };
    if (messages != NO_MESSAGES) {
        step.messages = (struct str){at + HEAD_BYTES + 4 * (size_t)count, messages};
    }
    session_history_apply(h, &step);
    free(ids);
    return 0;
}
