/* error.h - the one error convention.
 *
 * A fallible function returns int: 0, or a negative code. Codes of the operating system and of
 * libuv keep their value (on Linux both are -errno); ours lie below -5000. If people need to know
 * more, the last parameter is `struct error *err` (may be NULL), filled by the first function that
 * knows, so failing is one line: return error_set(err, E_FORMAT, "tensor '%s' ends beyond the
 * file", name). Texts: lower case, cause first, subject quoted, what to do if there is something,
 * no full stop. */
#ifndef LM_BASE_ERROR_H
#define LM_BASE_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

#define FALLIBLE __attribute__((warn_unused_result))

#define ERROR_CODES(X)                                    \
    X(E_INVALID, -5001, "invalid argument")               \
    X(E_FORMAT, -5002, "malformed data")                  \
    X(E_UNSUPPORTED, -5003, "not supported")              \
    X(E_LIMIT, -5004, "limit exceeded")                   \
    X(E_BUSY, -5005, "no capacity now")                   \
    X(E_NOT_FOUND, -5006, "not found")                    \
    X(E_CLOSED, -5007, "closed")                          \
    X(E_TIMEOUT, -5008, "timed out")                      \
    X(E_CANCELLED, -5009, "cancelled")                    \
    X(E_PROTOCOL, -5010, "protocol violation")            \
    X(E_DEVICE, -5011, "device failure")                  \
    X(E_CONTEXT_LENGTH, -5012, "context length exceeded") \
    X(E_UPSTREAM, -5013, "upstream failure")

enum error_code {
#define X(name, value, text) name = value,
    ERROR_CODES(X)
#undef X
};

struct error {
    int code;
    char text[512]; // always terminated; cut, never overrun
};

/* Fill *err (if not NULL) and return code. */
int error_set(struct error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Put context in front of a text that is already there: "loading 'x.gguf': <text>". Returns
 * err->code, or `code` if err is NULL. */
int error_prefix(struct error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* "E_FORMAT", "ENOENT", ... and the general text of a code. Never NULL. */
const char *error_name(int code);
const char *error_text(int code);

#ifdef __cplusplus
}
#endif

#endif
