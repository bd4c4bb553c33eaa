#include "engine/grammar_number.h"

#include "shared/base/check.h"
#include "shared/base/rng.h"
#include "tests/test.h"

#include <math.h>

static int compile(const struct number_range *range, struct grammar_nfa *n, struct error *err)
{
    int end;
    nfa_init(n);
    int rule = nfa_add_rule(n);
    int rc = number_emit(n, n->rule[rule].start, range, &end, err);
    if (rc == 0) nfa_add_epsilon(n, end, n->rule[rule].accept);
    return rc;
}

static double number_of(const char *text)
{
    double value;
    NEED(str_to_double(str_of(text), &value) == 0);
    return value;
}

static struct number_range range_of(const char *min, const char *max, bool is_integer)
{
    return (struct number_range){
        .min = {str_of(min), false}, .max = {str_of(max), false}, .is_integer = is_integer};
}

static void check_integers(const char *min, const char *max, int exclusive, int multiple)
{
    struct number_range range = range_of(min, max, true);
    struct grammar_nfa n;
    char text[32];
    range.min.is_exclusive = exclusive & 1;
    range.max.is_exclusive = exclusive & 2;
    range.multiple_of = multiple;
    EXPECT_INT(compile(&range, &n, NULL), 0);
    double low = min ? number_of(min) : -INFINITY, high = max ? number_of(max) : INFINITY;
    for (int v = -1200; v <= 1200; v++) {
        bool want = (exclusive & 1 ? v > low : v >= low) &&
                    (exclusive & 2 ? v < high : v <= high) && (multiple == 0 || v % multiple == 0);
        snprintf(text, sizeof text, "%d", v);
        bool got = nfa_matches(&n, str_of(text));
        if (got != want)
            printf("%d in %s..%s, exclusive %d, multiple %d: %d\n", v, min, max, exclusive,
                   multiple, got);
        EXPECT_INT(got, want);
    }
    EXPECT(!nfa_matches(&n, STR("01")));
    EXPECT(!nfa_matches(&n, STR("1.0")));
    EXPECT(!nfa_matches(&n, STR("")));
    EXPECT(!nfa_matches(&n, STR("-")));
    EXPECT(!nfa_matches(&n, STR("-0")) || (!min && !max));
    nfa_deinit(&n);
}

static void test_integers(void)
{
    static const char *const bounds[] = {NULL,  "-1000", "-999.5", "-101", "-7", "-0.5", "0",
                                         "0.5", "1",     "9",      "10",   "99", "101",  "1e3"};
    for (size_t i = 0; i < ARRAY_LEN(bounds); i++)
        for (size_t j = 0; j < ARRAY_LEN(bounds); j++)
            for (int exclusive = 0; exclusive < 4; exclusive++)
                check_integers(bounds[i], bounds[j], exclusive, 0);
    for (size_t i = 0; i < ARRAY_LEN(bounds); i += 3)
        for (int multiple = 1; multiple < 40; multiple += 6)
            check_integers(bounds[i], NULL, 0, multiple);
    check_integers("-100", "100", 0, 7);
}

static void test_fractions(void)
{
    static const char *const bounds[] = {NULL,    "-12.25", "-1",  "-0.001", "0",
                                         "0.125", "0.5",    "1.5", "2e-1",   "12.75"};
    static const char *const texts[] = {
        "-13",  "-12.3", "-12.25", "-12.250", "-12.2",     "-1.0001", "-1",
        "-1.0", "-0.5",  "-0.001", "-0.0009", "0",         "0.0",     "0.1",
        "0.12", "0.125", "0.1251", "0.2",     "0.20",      "0.5",     "0.50001",
        "1",    "1.49",  "1.5",    "12.75",   "12.749999", "12.7501", "13"};
    struct grammar_nfa n;
    for (size_t i = 0; i < ARRAY_LEN(bounds); i++)
        for (size_t j = 0; j < ARRAY_LEN(bounds); j++)
            for (int exclusive = 0; exclusive < 4; exclusive++) {
                struct number_range range = range_of(bounds[i], bounds[j], false);
                range.min.is_exclusive = exclusive & 1;
                range.max.is_exclusive = exclusive & 2;
                EXPECT_INT(compile(&range, &n, NULL), 0);
                double low = bounds[i] ? number_of(bounds[i]) : -INFINITY,
                       high = bounds[j] ? number_of(bounds[j]) : INFINITY;
                for (size_t k = 0; k < ARRAY_LEN(texts); k++) {
                    double v = number_of(texts[k]);
                    bool want = (exclusive & 1 ? v > low : v >= low) &&
                                (exclusive & 2 ? v < high : v <= high);
                    bool got = nfa_matches(&n, str_of(texts[k]));
                    if (got != want)
                        printf("%s in %s..%s, %d: %d\n", texts[k], bounds[i], bounds[j], exclusive,
                               got);
                    EXPECT_INT(got, want);
                }
                EXPECT(!nfa_matches(&n, STR("1.")));
                EXPECT(!nfa_matches(&n, STR(".5")));
                EXPECT(!nfa_matches(&n, STR("00")));
                nfa_deinit(&n);
            }
}

static void test_any(void)
{
    struct grammar_nfa n;
    struct number_range range = {0};
    EXPECT_INT(compile(&range, &n, NULL), 0);
    EXPECT(nfa_matches(&n, STR("-12.5e+07")));
    EXPECT(nfa_matches(&n, STR("0")));
    EXPECT(nfa_matches(&n, STR("1E5")));
    EXPECT(!nfa_matches(&n, STR("1e")));
    EXPECT(!nfa_matches(&n, STR("12345678901234567"))); // more digits than a double has
    EXPECT(!nfa_matches(&n, STR("1e999")));
    nfa_deinit(&n);
}

static void test_long_bounds(void)
{
    struct grammar_nfa n;
    struct error err;
    struct number_range range = range_of("1e20", "100000000000000000005", true);
    EXPECT_INT(compile(&range, &n, NULL), 0);
    EXPECT(nfa_matches(&n, STR("100000000000000000005")));
    EXPECT(!nfa_matches(&n, STR("100000000000000000006")));
    EXPECT(!nfa_matches(&n, STR("99999999999999999999")));
    nfa_deinit(&n);
    range = range_of("1e20", NULL, true);
    EXPECT_INT(compile(&range, &n, NULL), 0);
    EXPECT(nfa_matches(&n, STR("1000000000000000000005")));
    nfa_deinit(&n);
    range = range_of("1e400", NULL, true);
    EXPECT_INT(compile(&range, &n, &err), E_LIMIT);
    nfa_deinit(&n);
}

int main(void)
{
    RUN(test_integers);
    RUN(test_fractions);
    RUN(test_any);
    RUN(test_long_bounds);
    return TEST_END();
}
