/* error.c - texts of error codes. Three ranges share one int: ours below -5000, libuv's own between
 * -3000 and -4095 (shared/base does not see uv.h, so its few names are repeated here), and -errno.
 */
#include "shared/base/error.h"

#include "shared/base/check.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct code_text {
    int code;
    const char *name;
    const char *text;
};

static const struct code_text code_texts[] = {
#define X(name, value, text) {value, #name, text},
    ERROR_CODES(X)
#undef X
    // libuv 1.x, uv/errno.h: codes that no system call returns
    {-3000, "EAI_ADDRFAMILY", "address family not supported"},
    {-3001, "EAI_AGAIN", "name lookup failed for now"},
    {-3002, "EAI_BADFLAGS", "bad name lookup flags"},
    {-3003, "EAI_CANCELED", "name lookup cancelled"},
    {-3004, "EAI_FAIL", "name lookup failed"},
    {-3005, "EAI_FAMILY", "address family not supported"},
    {-3006, "EAI_MEMORY", "out of memory in name lookup"},
    {-3007, "EAI_NODATA", "name has no address"},
    {-3008, "EAI_NONAME", "unknown host name"},
    {-3009, "EAI_OVERFLOW", "name too long"},
    {-3010, "EAI_SERVICE", "service not available for this socket type"},
    {-3011, "EAI_SOCKTYPE", "socket type not supported"},
    {-3013, "EAI_BADHINTS", "bad name lookup hints"},
    {-3014, "EAI_PROTOCOL", "unknown protocol"},
    {-4080, "ECHARSET", "invalid characters"},
    {-4094, "UNKNOWN", "unknown error"},
    {-4095, "EOF", "end of file"},
};

static const struct code_text *find_code(int code)
{
    for (size_t i = 0; i < ARRAY_LEN(code_texts); i++) {
        if (code_texts[i].code == code) return &code_texts[i];
    }
    return NULL;
}

const char *error_name(int code)
{
    const struct code_text *known = find_code(code);
    if (known) return known->name;
    if (code == 0) return "OK";
    const char *name = code < 0 && code > -3000 ? strerrorname_np(-code) : NULL;
    return name ? name : "UNKNOWN";
}

const char *error_text(int code)
{
    const struct code_text *known = find_code(code);
    if (known) return known->text;
    if (code == 0) return "success";
    const char *text = code < 0 && code > -3000 ? strerrordesc_np(-code) : NULL;
    return text ? text : "unknown error";
}

int error_set(struct error *err, int code, const char *fmt, ...)
{
    CHECK(code < 0);
    if (!err) return code;
    // Into a temporary: an argument may be the old err->text.
    char text[sizeof err->text];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    err->code = code;
    memcpy(err->text, text, sizeof text);
    return code;
}

int error_prefix(struct error *err, int code, const char *fmt, ...)
{
    CHECK(code < 0);
    if (!err) return code;
    if (err->code == 0) { // nobody filled it: the code's own text is better than none
        err->code = code;
        snprintf(err->text, sizeof err->text, "%s", error_text(code));
    }
    char context[sizeof err->text], joined[2 * sizeof err->text + 2];
    va_list args;
    va_start(args, fmt);
    vsnprintf(context, sizeof context, fmt, args);
    va_end(args);
    snprintf(joined, sizeof joined, "%s: %s", context, err->text);
    memcpy(err->text, joined, sizeof err->text - 1);
    err->text[sizeof err->text - 1] = 0;
    return err->code;
}
