#include "shared/base/str.h"

#include <math.h>
#include <stdlib.h>

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

bool str_equal(struct str a, struct str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

bool str_equal_nocase(struct str a, struct str b)
{
    if (a.len != b.len) return false;
    for (size_t i = 0; i < a.len; i++) {
        unsigned char differ = (unsigned char)(a.data[i] ^ b.data[i]);
        if (differ == 0) continue;
        if (differ != 0x20 || lower(a.data[i]) != lower(b.data[i])) return false;
    }
    return true;
}

bool str_starts_with(struct str s, struct str prefix)
{
    return s.len >= prefix.len && (prefix.len == 0 || memcmp(s.data, prefix.data, prefix.len) == 0);
}

bool str_ends_with(struct str s, struct str suffix)
{
    if (s.len < suffix.len) return false;
    return str_equal((struct str){s.data + s.len - suffix.len, suffix.len}, suffix);
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

struct str str_trim(struct str s)
{
    while (s.len > 0 && is_blank(s.data[0])) {
        s.data++;
        s.len--;
    }
    while (s.len > 0 && is_blank(s.data[s.len - 1]))
        s.len--;
    return s;
}

bool str_split(struct str *s, char separator, struct str *head)
{
    if (s->len == 0) return false;
    const char *found = memchr(s->data, separator, s->len);
    size_t len = found ? (size_t)(found - s->data) : s->len;
    *head = (struct str){s->data, len};
    size_t taken = found ? len + 1 : len;
    s->data += taken;
    s->len -= taken;
    return true;
}

/* Digits only; E_LIMIT beyond 64 bits. */
static int parse_digits(struct str s, uint64_t *value)
{
    if (s.len == 0) return E_INVALID;
    uint64_t sum = 0;
    bool overflow = false;
    for (size_t i = 0; i < s.len; i++) {
        if (!is_digit(s.data[i])) return E_INVALID;
        overflow |= __builtin_mul_overflow(sum, (uint64_t)10, &sum);
        overflow |= __builtin_add_overflow(sum, (uint64_t)(s.data[i] - '0'), &sum);
    }
    *value = sum;
    return overflow ? E_LIMIT : 0;
}

int str_to_int(struct str s, int64_t *value)
{
    bool negative = s.len > 0 && s.data[0] == '-';
    if (negative) s = (struct str){s.data + 1, s.len - 1};
    uint64_t magnitude;
    int rc = parse_digits(s, &magnitude);
    if (rc < 0) return rc;
    if (magnitude > (uint64_t)INT64_MAX + negative) return E_LIMIT;
    *value = negative ? (int64_t)(0 - magnitude) : (int64_t)magnitude;
    return 0;
}

static size_t count_digits(struct str s, size_t from)
{
    size_t n = 0;
    while (from + n < s.len && is_digit(s.data[from + n]))
        n++;
    return n;
}

/* [-] digits [. digits] [e [+-] digits], with digits on one side of the point at least. strtod
 * alone would take blanks, "inf", "nan" and hexadecimal. */
static bool is_decimal(struct str s)
{
    size_t at = s.len > 0 && s.data[0] == '-' ? 1 : 0;
    size_t whole = count_digits(s, at), fraction = 0;
    at += whole;
    if (at < s.len && s.data[at] == '.') {
        fraction = count_digits(s, at + 1);
        at += 1 + fraction;
    }
    if (whole + fraction == 0) return false;
    if (at < s.len && (s.data[at] == 'e' || s.data[at] == 'E')) {
        at++;
        if (at < s.len && (s.data[at] == '+' || s.data[at] == '-')) at++;
        size_t exponent = count_digits(s, at);
        if (exponent == 0) return false;
        at += exponent;
    }
    return at == s.len;
}

static int hex_digit(char c)
{
    c = lower(c);
    return is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

char *str_put(char *at, struct str s)
{
    if (s.len) memcpy(at, s.data, s.len);
    return at + s.len;
}

char *str_put_uint(char *at, uint64_t value)
{
    char digits[20];
    int count = 0;
    do {
        digits[count++] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    while (count > 0)
        *at++ = digits[--count];
    return at;
}

char *str_put_hex64(char *at, uint64_t value)
{
    for (int shift = 60; shift >= 0; shift -= 4)
        *at++ = "0123456789abcdef"[value >> shift & 15];
    return at;
}

void str_copy(char *out, size_t size, const char *text)
{
    size_t len = strnlen(text, size - 1);
    memcpy(out, text, len);
    out[len] = 0;
}

int str_to_hex64(struct str s, uint64_t *value)
{
    uint64_t sum = 0;
    if (s.len != 16) return E_INVALID;
    for (size_t i = 0; i < s.len; i++) {
        int digit = hex_digit(s.data[i]);
        if (digit < 0) return E_INVALID;
        sum = sum << 4 | (uint64_t)digit;
    }
    *value = sum;
    return 0;
}

int str_to_double(struct str s, double *value)
{
    char text[400]; // no double needs more; a longer text is not a number that someone meant
    if (s.len >= sizeof text || !is_decimal(s)) return E_INVALID;
    memcpy(text, s.data, s.len);
    text[s.len] = 0;
    double number = strtod(text, NULL);
    if (!isfinite(number)) return E_LIMIT;
    *value = number;
    return 0;
}

/* The power of 1024 that the suffix means, or -1. */
static int suffix_shift(struct str suffix)
{
    if (suffix.len == 0) return 0;
    int shift;
    switch (lower(suffix.data[0])) {
    case 'b':
        return suffix.len == 1 ? 0 : -1;
    case 'k':
        shift = 10;
        break;
    case 'm':
        shift = 20;
        break;
    case 'g':
        shift = 30;
        break;
    case 't':
        shift = 40;
        break;
    default:
        return -1;
    }
    struct str unit = {suffix.data + 1, suffix.len - 1};
    bool known =
        unit.len == 0 || str_equal_nocase(unit, STR("b")) || str_equal_nocase(unit, STR("ib"));
    return known ? shift : -1;
}

int str_to_bytes(struct str s, uint64_t *value)
{
    size_t digits = count_digits(s, 0);
    int shift = suffix_shift((struct str){s.data + digits, s.len - digits});
    uint64_t number;
    int rc = parse_digits((struct str){s.data, digits}, &number);
    if (shift < 0) return E_INVALID;
    if (rc < 0) return rc;
    if (number > UINT64_MAX >> shift) return E_LIMIT;
    *value = number << shift;
    return 0;
}
