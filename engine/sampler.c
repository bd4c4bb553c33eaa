#include "engine/sampler.h"

#include "shared/base/check.h"

#include <stdlib.h>

/* ---- random numbers ---- */

void sampler_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

uint64_t sampler_random(uint64_t seed, uint32_t choice, uint64_t position)
{
    uint32_t counter[4] = {(uint32_t)position, (uint32_t)(position >> 32), choice, 0};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, out[4];
    sampler_philox(counter, key, out);
    return (uint64_t)out[0] << 32 | out[1];
}

/* ---- scratch ---- */

void sampler_mask_deinit(struct sampler_mask *m)
{
    free(m->word);
    *m = (struct sampler_mask){0};
}

void sampler_scratch_deinit(struct sampler_scratch *s)
{
    sample_scratch_deinit(&s->draw);
    sampler_mask_deinit(&s->mask);
}

/* ---- the draw ---- */

static int find_mask(struct grammar_matcher *grammar, struct sampler_mask *m)
{
    int words = grammar_mask_words(grammar->grammar);
    if (m->words != words) m->word = xrealloc_array(m->word, (size_t)words, sizeof *m->word);
    m->words = words;
    return grammar_mask(grammar, m->word);
}

int sampler_row(const struct sampler_input *in, struct sampler_mask *mask, struct sample_row *out)
{
    const struct sampling_params *s = in->params;
    *out = (struct sample_row){
        .kind = SAMPLE_DRAW,
        .temperature = s->temperature,
        .top_p = s->top_p,
        .min_p = s->min_p,
        .top_k = s->top_k,
        .repetition = s->repetition_penalty != 0 ? s->repetition_penalty : 1,
        .frequency = s->frequency_penalty,
        .presence = s->presence_penalty,
        .bias = s->bias,
        .bias_count = s->bias_count,
        .banned = in->banned,
        .banned_count = in->banned_count,
        .logprobs = s->logprobs,
    };
    out->random = sampler_random(s->seed, s->choice, (uint64_t)in->position);
    if (in->history) {
        out->seen = in->history->item;
        out->seen_count = in->history->count;
    }
    if (!in->grammar) return 0;
    int rc = find_mask(in->grammar, mask);
    out->mask = mask->word;
    out->mask_words = mask->words;
    return rc;
}

/* ---- log-probabilities ---- */

void sampler_logprobs(const struct sample_report *r, int32_t token, struct token_logprob *out,
                      int count)
{
    out[0] = (struct token_logprob){token, sample_logprob(r, r->own)};
    for (int i = 1; i < count; i++) {
        const struct sample_candidate *c = &r->likeliest[i - 1];
        out[i] = (struct token_logprob){c->id, sample_logprob(r, c->value)};
    }
}

/* Of the row that the scratch has looked at. */
static void report(int32_t token, int vocab, struct sample_scratch *s, struct token_logprob *out,
                   int count)
{
    struct sample_report r;
    sample_report(s, vocab, token, count, &r);
    sampler_logprobs(&r, token, out, count);
}

int sampler_draw(const struct sampler_input *in, const float *logits, int vocab,
                 struct sampler_scratch *scratch, struct token_logprob *logprobs)
{
    struct sample_row row;
    int rc = sampler_row(in, &scratch->mask, &row);
    if (rc < 0) return rc;
    int token = sample_draw(&row, logits, vocab, &scratch->draw);
    if (token >= 0 && logprobs && in->params->logprobs > 0)
        report(token, vocab, &scratch->draw, logprobs, in->params->logprobs);
    return token;
}

int sampler_score(int32_t token, const float *logits, int vocab, struct sampler_scratch *scratch,
                  struct token_logprob *logprobs, int count)
{
    int rc = sample_look(logits, vocab, &scratch->draw);
    if (rc < 0) return rc;
    report(token, vocab, &scratch->draw, logprobs, count);
    return 0;
}
