#include "shared/base/json_text.h"

#include "shared/base/check.h"
#include "shared/base/utf8.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void put_special(struct buf *out, unsigned char c)
{
    switch (c) {
    case '"':
        buf_append_str(out, "\\\"");
        break;
    case '\\':
        buf_append_str(out, "\\\\");
        break;
    case '\b':
        buf_append_str(out, "\\b");
        break;
    case '\f':
        buf_append_str(out, "\\f");
        break;
    case '\n':
        buf_append_str(out, "\\n");
        break;
    case '\r':
        buf_append_str(out, "\\r");
        break;
    case '\t':
        buf_append_str(out, "\\t");
        break;
    default:
        buf_printf(out, "\\u%04x", c);
    }
}

void json_text_string(struct buf *out, struct str value)
{
    buf_append_char(out, '"');
    size_t start = 0, at = 0; // [start, at) is good as it stands
    while (at < value.len) {
        unsigned char c = (unsigned char)value.data[at];
        if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\') {
            at++;
            continue;
        }
        uint32_t code_point;
        size_t len = c >= 0x80 ? utf8_decode(value.data + at, value.len - at, &code_point) : 0;
        if (len > 0) {
            at += len;
            continue;
        }
        buf_append(out, value.data + start, at - start);
        if (c < 0x80) {
            put_special(out, c);
            at++;
        } else {
            buf_append_str(out, "\xef\xbf\xbd");
            at += utf8_invalid_len(value.data + at, value.len - at);
        }
        start = at;
    }
    if (at > start) buf_append(out, value.data + start, at - start);
    buf_append_char(out, '"');
}

/* Significant digits without trailing zeros; *exponent is the power of ten of the first one. */
static int shortest_digits(double value, char digits[20], int *exponent)
{
    char text[40];
    // Below DBL_MIN a double has fewer than 15 digits: there the search starts at one.
    int precision = value < DBL_MIN ? 1 : 15;
    for (; precision <= 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision - 1, value);
        if (precision == 17 || strtod(text, NULL) == value) break;
    }
    int count = 0;
    const char *at = text;
    for (; *at != 'e'; at++) {
        if (*at != '.') digits[count++] = *at;
    }
    while (count > 1 && digits[count - 1] == '0')
        count--;
    *exponent = (int)strtol(at + 1, NULL, 10);
    return count;
}

void json_text_double(double value, bool keep_point, char out[JSON_DOUBLE_SIZE])
{
    CHECK(isfinite(value));
    char *at = out;
    if (signbit(value)) *at++ = '-';
    if (value == 0) {
        snprintf(at, 4, keep_point ? "0.0" : "0");
        return;
    }
    char digits[20];
    int exponent, count = shortest_digits(fabs(value), digits, &exponent);
    if (exponent < -4 || exponent >= 16) {
        *at++ = digits[0];
        if (count > 1) *at++ = '.';
        for (int i = 1; i < count; i++)
            *at++ = digits[i];
        snprintf(at, 6, "e%+03d", exponent);
        return;
    }
    if (exponent < 0) { // 0.000ddd
        *at++ = '0';
        *at++ = '.';
        for (int i = -1; i > exponent; i--)
            *at++ = '0';
        for (int i = 0; i < count; i++)
            *at++ = digits[i];
        *at = 0;
        return;
    }
    for (int i = 0; i <= exponent; i++)
        *at++ = i < count ? digits[i] : '0';
    if (count > exponent + 1) {
        *at++ = '.';
        for (int i = exponent + 1; i < count; i++)
            *at++ = digits[i];
    } else if (keep_point) {
        *at++ = '.';
        *at++ = '0';
    }
    *at = 0;
}
