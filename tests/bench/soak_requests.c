#include "tests/bench/soak_requests.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/check.h"
#include "shared/base/json.h"
#include "shared/base/rng.h"

#define PROMPT_WORDS_MIN 16
#define PROMPT_WORDS_MAX 1900 // words, of which a few take two tokens
#define COMPLETION_MAX   300
#define BEGINNINGS       4

/* ---- answers ---- */

void soak_answer_init(struct soak_answer *a, size_t max)
{
    *a = (struct soak_answer){0};
    buf_init(&a->text, max);
}

void soak_answer_deinit(struct soak_answer *a)
{
    buf_deinit(&a->text);
}

void soak_answer_move(struct soak_answer *to, struct soak_answer *from)
{
    buf_deinit(&to->text);
    *to = *from;
    soak_answer_init(from, to->text.max);
}

static int64_t token_count(const struct json *usage, const char *name)
{
    const struct json *value = json_get(usage, name);
    return value && json_is_integer(value) ? (int64_t)json_number(value) : 0;
}

bool soak_answer_add(struct soak_answer *a, struct str data)
{
    struct json *event = json_parse(data.data, data.len, NULL);
    const struct json *choice = json_first(json_get(event, "choices"));
    const struct json *text = json_get(choice, "text"), *finish = json_get(choice, "finish_reason");
    const struct json *usage = json_get(event, "usage");
    size_t len = 0;

    if (!event || json_get(event, "error")) a->bad = true;
    if (text && json_type(text) == JSON_STRING) {
        const char *bytes = json_string(text, &len);
        if (buf_append(&a->text, bytes, len) != 0) a->bad = true;
    }
    if (finish && json_type(finish) == JSON_STRING)
        snprintf(a->finish, sizeof a->finish, "%s", json_string(finish, NULL));
    if (usage && json_type(usage) == JSON_OBJECT) {
        a->prompt_tokens = token_count(usage, "prompt_tokens");
        a->completion_tokens = token_count(usage, "completion_tokens");
    }
    json_destroy(event);
    return len > 0;
}

bool soak_answer_equal(const struct soak_answer *a, const struct soak_answer *b)
{
    return str_equal(buf_str(&a->text), buf_str(&b->text)) && strcmp(a->finish, b->finish) == 0 &&
           a->prompt_tokens == b->prompt_tokens && a->completion_tokens == b->completion_tokens;
}

void soak_answer_print(const struct soak_request *r, const struct soak_answer *want,
                       const struct soak_answer *got)
{
    size_t at = 0;
    while (at < want->text.len && at < got->text.len && want->text.data[at] == got->text.data[at])
        at++;
    fprintf(stderr,
            "lm-bench: request %d (%s) was answered differently from byte %zu: %zu bytes, %lld "
            "tokens, %s instead of %zu bytes, %lld tokens, %s\n",
            r->index, r->sampled ? "sampled" : "greedy", at, got->text.len,
            (long long)got->completion_tokens, got->finish, want->text.len,
            (long long)want->completion_tokens, want->finish);
}

/* ---- requests ---- */

static const char *const words[] = {
    "the",  "harbour", "wall",   "water", "moon",  "paper",  "line",    "rain",
    "and",  "boat",    "light",  "north", "stone", "letter", "winter",  "number",
    "of",   "machine", "music",  "house", "night", "river",  "table",   "window",
    "with", "garden",  "answer", "story", "city",  "train",  "morning", "colour",
};

/* Words first..last of an endless text that `stream` names. */
static void append_words(struct buf *text, uint64_t stream, int count)
{
    struct rng r;

    rng_init(&r, stream);
    for (int i = 0; i < count; i++)
        buf_printf(text, "%s%s", i ? " " : "", words[rng_below(&r, ARRAY_LEN(words))]);
}

/* Evenly spread over the lengths' orders of magnitude. */
static int prompt_words(struct rng *r)
{
    double span = log((double)PROMPT_WORDS_MAX / PROMPT_WORDS_MIN);
    return (int)(PROMPT_WORDS_MIN * exp(span * rng_unit(r)));
}

static void build_request(struct soak_request *q, const char *model, int index, struct rng *r)
{
    struct json_writer w;
    struct buf prompt;
    int count = prompt_words(r), shared = 0;

    buf_init(&prompt, BUF_MAX_INTERNAL);
    uint32_t beginning = rng_below(r, BEGINNINGS);
    if (rng_below(r, 5) < 3) shared = (int)(count * rng_unit(r));
    append_words(&prompt, beginning, shared);
    buf_printf(&prompt, " %d ", index);
    append_words(&prompt, 1000 + (uint64_t)index, count - shared);
    q->index = index;
    q->sampled = index % 2 != 0;
    buf_init(&q->body, BUF_MAX_INTERNAL);
    json_writer_init(&w, &q->body);
    json_object_begin(&w);
    json_field_text(&w, "model", model);
    json_field_str(&w, "prompt", buf_str(&prompt));
    json_field_int(&w, "max_tokens", 1 + rng_below(r, COMPLETION_MAX));
    json_field_bool(&w, "ignore_eos", true);
    json_field_double(&w, "temperature", q->sampled ? 0.8 : 0);
    json_field_int(&w, "seed", index);
    json_field_bool(&w, "stream", true);
    json_key(&w, "stream_options");
    json_object_begin(&w);
    json_field_bool(&w, "include_usage", true);
    json_object_end(&w);
    json_object_end(&w);
    buf_deinit(&prompt);
}

void soak_set_init(struct soak_set *s, const char *model, int count, uint64_t seed)
{
    struct rng r;

    rng_init(&r, seed);
    s->count = count;
    s->request = xcalloc((size_t)count, sizeof *s->request);
    s->answer = xcalloc((size_t)count, sizeof *s->answer);
    for (int i = 0; i < count; i++) {
        build_request(&s->request[i], model, i, &r);
        soak_answer_init(&s->answer[i], 0);
    }
}

void soak_set_deinit(struct soak_set *s)
{
    for (int i = 0; i < s->count; i++) {
        buf_deinit(&s->request[i].body);
        soak_answer_deinit(&s->answer[i]);
    }
    free(s->request);
    free(s->answer);
    *s = (struct soak_set){0};
}

void soak_set_print(const struct soak_set *s)
{
    int64_t prompt[2] = {INT64_MAX, 0}, completion[2] = {INT64_MAX, 0};

    for (int i = 0; i < s->count; i++) {
        const struct soak_answer *a = &s->answer[i];
        if (a->prompt_tokens < prompt[0]) prompt[0] = a->prompt_tokens;
        if (a->prompt_tokens > prompt[1]) prompt[1] = a->prompt_tokens;
        if (a->completion_tokens < completion[0]) completion[0] = a->completion_tokens;
        if (a->completion_tokens > completion[1]) completion[1] = a->completion_tokens;
    }
    printf(
        "%d requests, half greedy, half sampled: prompts of %lld to %lld tokens, answers of %lld "
        "to %lld, %lld tokens on average\n",
        s->count, (long long)prompt[0], (long long)prompt[1], (long long)completion[0],
        (long long)completion[1], (long long)soak_set_demand(s, 1));
}

int64_t soak_set_demand(const struct soak_set *s, int clients)
{
    int64_t tokens = 0;

    for (int i = 0; i < s->count; i++)
        tokens += s->answer[i].prompt_tokens + s->answer[i].completion_tokens;
    return s->count > 0 ? tokens * clients / s->count : 0;
}
