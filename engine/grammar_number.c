/* grammar_number.c - digit automata that remember whether the digits so far equal those of a bound:
 *
 *     tight     equal so far: the next digit decides (at least, or at most, the bound's)
 *     free      already greater than the lower, or less than the upper bound
 *
 * A text of n digits before the point is compared with bounds of n digits only; shorter bounds are
 * met or missed by length alone. Negative numbers are magnitudes with the bounds exchanged. */
#include "engine/grammar_number.h"

#include "shared/base/check.h"

#include <string.h>

#define BOUND_DIGITS_MAX 320 // before the point, and behind it

/* A magnitude as digits: no leading zeros (one for 0), no trailing zeros behind the point. */
struct decimal {
    char whole[BOUND_DIGITS_MAX + 1], fraction[BOUND_DIGITS_MAX + 1];
    int whole_len, fraction_len;
    bool is_negative, is_set, is_exclusive;
};

static bool is_zero(const struct decimal *d)
{
    return d->whole_len == 1 && d->whole[0] == '0' && d->fraction_len == 0;
}

/* ---- reading bounds ---- */

static int too_long(struct str text, struct error *err)
{
    return error_set(err, E_LIMIT, "the bound " STR_FMT " has too many digits", STR_ARG(text));
}

/* `digits` with the point behind the first `point` of them. */
static int place_point(struct decimal *d, const char *digits, int count, int point)
{
    for (int i = point < 0 ? point : 0; i < count || i < point; i++) {
        char digit = i >= 0 && i < count ? digits[i] : '0';
        if (i < point) {
            if (d->whole_len == BOUND_DIGITS_MAX) return -1;
            if (d->whole_len > 0 || digit != '0') d->whole[d->whole_len++] = digit;
        } else {
            if (d->fraction_len == BOUND_DIGITS_MAX) return -1;
            d->fraction[d->fraction_len++] = digit;
        }
    }
    if (d->whole_len == 0) d->whole[d->whole_len++] = '0';
    while (d->fraction_len > 0 && d->fraction[d->fraction_len - 1] == '0')
        d->fraction_len--;
    return 0;
}

static int read_bound(const struct number_bound *bound, struct decimal *d, struct error *err)
{
    *d = (struct decimal){.is_exclusive = bound->is_exclusive};
    struct str text = bound->value;
    if (!text.data) return 0;
    char digits[2 * BOUND_DIGITS_MAX];
    int count = 0, point = -1;
    int64_t exponent = 0;
    size_t i = 0;
    d->is_set = true;
    if (text.len > 0 && text.data[0] == '-') {
        d->is_negative = true;
        i++;
    }
    for (; i < text.len && (text.data[i] | 32) != 'e'; i++) {
        if (text.data[i] == '.')
            point = count;
        else if (count == (int)sizeof digits)
            return too_long(text, err);
        else
            digits[count++] = text.data[i];
    }
    if (i < text.len) {
        struct str rest = {text.data + i + 1, text.len - i - 1};
        if (rest.len > 0 && rest.data[0] == '+') rest = (struct str){rest.data + 1, rest.len - 1};
        if (str_to_int(rest, &exponent) < 0) return too_long(text, err);
    }
    if (exponent > BOUND_DIGITS_MAX || exponent < -BOUND_DIGITS_MAX) return too_long(text, err);
    if (point < 0) point = count;
    if (place_point(d, digits, count, point + (int)exponent) < 0) return too_long(text, err);
    if (is_zero(d)) d->is_negative = false;
    return 0;
}

/* ---- fractions ---- */

struct builder {
    struct grammar_nfa *n;
    const struct decimal *low, *high; // of magnitudes; not set: none
    bool is_integer;
    int end;
    int digits;            // at most, on each side of the point
    int fraction_entry[4]; // by tightness, -1: not made yet
};

enum { TIGHT_LOW = 1, TIGHT_HIGH = 2 };

static int bound_digit(const char *digits, int len, int at)
{
    return at < len ? digits[at] - '0' : 0;
}

/* Whether the number may end behind `at` digits of the fraction. */
static bool may_end(const struct builder *b, int tight, int at)
{
    if (tight & TIGHT_LOW && (at < b->low->fraction_len || b->low->is_exclusive)) return false;
    if (tight & TIGHT_HIGH && at >= b->high->fraction_len && b->high->is_exclusive) return false;
    return true;
}

/* Edges for the digits that `tight` allows where the bounds have `low` and `high`: to[next tightness].
 * A target of -1 is made by `make`. */
struct digit_step {
    int first, last; // digits; first > last: none
    int tight;       // afterwards
};

static int digit_steps(int tight, int low, int high, struct digit_step steps[3])
{
    int count = 0;
    if (!(tight & TIGHT_LOW)) low = -1;
    if (!(tight & TIGHT_HIGH)) high = 10;
    if (low > high) return 0;
    if (low == high) {
        steps[count++] = (struct digit_step){low, low, tight};
        return count;
    }
    if (low >= 0) steps[count++] = (struct digit_step){low, low, TIGHT_LOW};
    if (high <= 9) steps[count++] = (struct digit_step){high, high, TIGHT_HIGH};
    if (low + 1 <= high - 1) steps[count++] = (struct digit_step){low + 1, high - 1, 0};
    return count;
}

static void add_digits(struct builder *b, int from, const struct digit_step *step, int to)
{
    nfa_add_bytes(b->n, from, '0' + step->first, '0' + step->last, to);
}

/* The digits behind the point, from the state behind it. */
static void add_fraction(struct builder *b, int from, int tight)
{
    int now[4] = {-1, -1, -1, -1};
    now[tight] = from;
    for (int at = 0; at < b->digits; at++) {
        int next[4] = {-1, -1, -1, -1};
        int low = b->low->is_set ? bound_digit(b->low->fraction, b->low->fraction_len, at) : 0;
        int high = b->high->is_set ? bound_digit(b->high->fraction, b->high->fraction_len, at) : 0;
        for (int t = 0; t < 4; t++) {
            struct digit_step steps[3];
            if (now[t] < 0) continue;
            int count = digit_steps(t, low, high, steps);
            for (int i = 0; i < count; i++) {
                int to = steps[i].tight;
                if (next[to] < 0) next[to] = nfa_add_state(b->n);
                add_digits(b, now[t], &steps[i], next[to]);
            }
        }
        for (int t = 0; t < 4; t++) {
            now[t] = next[t];
            if (now[t] >= 0 && may_end(b, t, at + 1)) nfa_add_epsilon(b->n, now[t], b->end);
        }
    }
}

/* Where a number goes on behind its whole part: ends, or has a fraction. */
static int fraction_entry(struct builder *b, int tight)
{
    if (b->fraction_entry[tight] >= 0) return b->fraction_entry[tight];
    int entry = b->fraction_entry[tight] = nfa_add_state(b->n);
    if (may_end(b, tight, 0)) nfa_add_epsilon(b->n, entry, b->end);
    if (!b->is_integer) add_fraction(b, nfa_emit_text(b->n, entry, STR(".")), tight);
    return entry;
}

/* ---- whole parts ---- */

/* All magnitudes whose whole part has `len` digits. */
static void add_length(struct builder *b, int from, int len)
{
    int tight = 0, now[4] = {-1, -1, -1, -1};
    if (b->low->is_set && b->low->whole_len > len) return;
    if (b->high->is_set && b->high->whole_len < len) return;
    if (b->low->is_set && b->low->whole_len == len) tight |= TIGHT_LOW;
    if (b->high->is_set && b->high->whole_len == len) tight |= TIGHT_HIGH;
    now[tight] = from;
    for (int at = 0; at < len; at++) {
        int next[4] = {-1, -1, -1, -1};
        for (int t = 0; t < 4; t++) {
            struct digit_step steps[3];
            if (now[t] < 0) continue;
            int low = t & TIGHT_LOW ? b->low->whole[at] - '0' : 0;
            int high = t & TIGHT_HIGH ? b->high->whole[at] - '0' : 0;
            int count = digit_steps(t, low, high, steps);
            for (int i = 0; i < count; i++) {
                if (at == 0 && len > 1 && steps[i].first == 0) steps[i].first = 1;
                if (steps[i].first > steps[i].last) continue;
                int to = steps[i].tight;
                if (next[to] < 0)
                    next[to] = at == len - 1 ? fraction_entry(b, to) : nfa_add_state(b->n);
                add_digits(b, now[t], &steps[i], next[to]);
            }
        }
        memcpy(now, next, sizeof now);
    }
}

static void add_magnitudes(struct grammar_nfa *n, int from, const struct decimal *low,
                           const struct decimal *high, bool is_integer, int end)
{
    struct builder b = {.n = n,
                        .low = low,
                        .high = high,
                        .is_integer = is_integer,
                        .end = end,
                        .digits = NUMBER_DIGITS,
                        .fraction_entry = {-1, -1, -1, -1}};
    const struct decimal *bounds[] = {low, high};
    int start = nfa_add_state(n);
    nfa_add_epsilon(n, from, start);
    for (int i = 0; i < 2; i++) {
        if (!bounds[i]->is_set) continue;
        if (bounds[i]->whole_len >= b.digits) b.digits = bounds[i]->whole_len + 1;
        if (bounds[i]->fraction_len >= b.digits) b.digits = bounds[i]->fraction_len + 1;
    }
    for (int len = 1; len <= b.digits && !n->overflow; len++)
        add_length(&b, start, len);
}

static void add_range(struct grammar_nfa *n, int from, struct decimal min, struct decimal max,
                      bool is_integer, int end)
{
    static const struct decimal zero = {.whole = "0", .whole_len = 1, .is_set = true};
    static const struct decimal above_zero = {
        .whole = "0", .whole_len = 1, .is_set = true, .is_exclusive = true};
    bool has_negative = !min.is_set || min.is_negative;
    bool has_positive = !max.is_set || !max.is_negative;
    if (has_positive)
        add_magnitudes(n, from, min.is_set && !min.is_negative ? &min : &zero, &max, is_integer,
                       end);
    if (has_negative)
        add_magnitudes(n, nfa_emit_text(n, from, STR("-")),
                       max.is_set && max.is_negative ? &max : &above_zero, &min, is_integer, end);
}

/* ---- the rest ---- */

static int emit_up_to(struct grammar_nfa *n, int from, int low, int min, int max)
{
    int end = nfa_add_state(n);
    for (int i = 0; i < max; i++) {
        int to = nfa_add_state(n);
        if (i >= min) nfa_add_epsilon(n, from, end);
        nfa_add_bytes(n, from, i == 0 ? '0' + low : '0', '9', to);
        from = to;
    }
    nfa_add_epsilon(n, from, end);
    return end;
}

static void add_any(struct grammar_nfa *n, int from, bool is_integer, int end)
{
    int start = nfa_add_state(n), whole = nfa_add_state(n);
    nfa_add_epsilon(n, from, start);
    nfa_add_epsilon(n, nfa_emit_text(n, from, STR("-")), start);
    nfa_add_bytes(n, start, '0', '0', whole);
    nfa_add_epsilon(n, emit_up_to(n, start, 1, 1, NUMBER_DIGITS), whole);
    nfa_add_epsilon(n, whole, end);
    if (is_integer) return;
    int fraction = emit_up_to(n, nfa_emit_text(n, whole, STR(".")), 0, 1, NUMBER_DIGITS);
    nfa_add_epsilon(n, fraction, end);
    int exponent = nfa_add_state(n), sign = nfa_add_state(n);
    for (const char *e = "eE"; *e; e++) {
        nfa_add_bytes(n, fraction, *e, *e, exponent);
        nfa_add_bytes(n, whole, *e, *e, exponent);
    }
    nfa_add_epsilon(n, exponent, sign);
    nfa_add_bytes(n, exponent, '+', '+', sign);
    nfa_add_bytes(n, exponent, '-', '-', sign);
    nfa_add_epsilon(n, emit_up_to(n, sign, 0, 1, 2), end);
}

/* Integers that `divisor` divides: a state per remainder. */
static void add_multiples(struct grammar_nfa *n, int divisor)
{
    int rule = nfa_add_rule(n), first = n->states;
    for (int i = 0; i < divisor; i++)
        nfa_add_state(n);
    for (int r = 0; r < divisor && !n->overflow; r++)
        for (int digit = 0; digit < 10; digit++)
            nfa_add_bytes(n, first + r, '0' + digit, '0' + digit,
                          first + (10 * r + digit) % divisor);
    int start = n->rule[rule].start;
    nfa_add_bytes(n, start, '-', '-', first);
    nfa_add_epsilon(n, start, first);
    nfa_add_epsilon(n, first, n->rule[rule].accept);
}

int number_emit(struct grammar_nfa *n, int from, const struct number_range *range, int *end,
                struct error *err)
{
    struct decimal min, max;
    int rc;
    *end = nfa_add_state(n);
    if ((rc = read_bound(&range->min, &min, err)) < 0 ||
        (rc = read_bound(&range->max, &max, err)) < 0)
        return rc;
    if (range->multiple_of > 1) {
        CHECK(range->is_integer && range->multiple_of <= NUMBER_MULTIPLE_MAX);
        struct grammar_nfa bounded, multiples, both;
        nfa_init(&bounded);
        nfa_init(&multiples);
        nfa_init(&both);
        nfa_add_rule(&bounded);
        add_range(&bounded, bounded.rule[0].start, min, max, true, bounded.rule[0].accept);
        add_multiples(&multiples, range->multiple_of);
        rc = nfa_intersect(&bounded, &multiples, &both, err);
        if (rc == 0) nfa_add_epsilon(n, nfa_emit_copy(n, from, &both), *end);
        nfa_deinit(&bounded);
        nfa_deinit(&multiples);
        nfa_deinit(&both);
        return rc;
    }
    if (min.is_set || max.is_set)
        add_range(n, from, min, max, range->is_integer, *end);
    else
        add_any(n, from, range->is_integer, *end);
    return 0;
}
