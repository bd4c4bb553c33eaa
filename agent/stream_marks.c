#include "agent/stream_marks.h"

#include <inttypes.h>

#define IDS_PER_LINE 4096 // a proxy reads lines of up to 64 KiB

void stream_marks_deinit(struct stream_marks *m)
{
    token_list_deinit(&m->ids);
    *m = (struct stream_marks){0};
}

void stream_marks_sampled(struct stream_marks *m, size_t first, const int32_t *ids, size_t count)
{
    if (!m->is_on || !m->is_resumable) return;
    for (size_t i = 0; i < count; i++)
        if (first + i >= m->known) token_list_push(&m->ids, ids[i]);
}

static void print_seed(struct stream_marks *m, struct buf *out)
{
    m->has_begun = true;
    buf_printf(out, ": lm seed=%" PRIu64 " now=%" PRId64 " id=%s created=%" PRId64, m->seed,
               m->now_s, m->id, m->created_s);
    if (m->rope > 0) buf_printf(out, " rope=%d", m->rope);
    buf_append_char(out, '\n');
}

static void print_id(struct buf *out, int32_t id)
{
    char digits[20];
    buf_append(out, digits, (size_t)(str_put_uint(digits, (uint64_t)id) - digits));
}

static void print_point(const struct stream_marks *m, struct buf *out, const int32_t *ids,
                        size_t count)
{
    buf_append_str(out, ": lm t=");
    for (size_t i = 0; i < count; i++) {
        if (i > 0) buf_append_char(out, ',');
        print_id(out, ids[i]);
    }
    buf_printf(out, " b=%" PRIu64 " p=%d\n", m->bytes, (int)m->phase);
}

void stream_marks_event(struct stream_marks *m, struct buf *out, enum resume_phase phase)
{
    if (!m->is_on || !m->is_resumable) return;
    if (!m->has_begun) print_seed(m, out);
    m->phase = phase;
    print_point(m, out, NULL, 0);
}

void stream_marks_announce(struct stream_marks *m, struct buf *out, size_t text_len,
                           enum resume_phase phase)
{
    if (!m->is_on || !m->is_resumable) return;
    if (!m->has_begun) print_seed(m, out);
    size_t at = 0;
    for (; m->ids.count - at > IDS_PER_LINE; at += IDS_PER_LINE)
        print_point(m, out, m->ids.ids + at, IDS_PER_LINE);
    m->bytes += text_len;
    m->phase = phase;
    print_point(m, out, m->ids.ids + at, m->ids.count - at);
    m->ids.count = 0;
}

void stream_marks_usage(struct stream_marks *m, struct buf *out, int64_t prompt, int64_t completion,
                        int64_t cached)
{
    if (!m->is_on || m->has_usage) return;
    if (m->is_resumable && !m->has_begun) print_seed(m, out);
    m->has_usage = true;
    buf_printf(out, ": lm u=%" PRId64 ",%" PRId64 ",%" PRId64 "\n", prompt, completion, cached);
}
