/* api_error.h - error answers: OpenAI's nested object with LMDeploy's flat keys beside it.
 *
 *     {"error":{"message":..,"type":..,"param":..,"code":..},
 *      "object":"error","message":..,"code":404}
 *
 * A 401 has "detail":{"error":{..}} as well, where clients of LMDeploy up to 0.9 look for it.
 * All four keys of `error` are always there. Messages say what was wrong and what to do. */
#ifndef LM_NET_API_ERROR_H
#define LM_NET_API_ERROR_H

#include "shared/base/buf.h"
#include "shared/net/http_server.h"

struct api_error {
    int status;       // HTTP status
    const char *type; // "invalid_request_error", "server_error", ...; NULL: by status
    const char *code; // "model_not_found", ...; NULL writes null
    char param[128];  // "messages[0].content"; "" writes null
    char message[512];
    int retry_after_s; // > 0: Retry-After header
};

/* Fill *e; message as printf. param may be NULL. Returns -1, so that failing is one line. */
int api_error_set(struct api_error *e, int status, const char *code, const char *param,
                  const char *fmt, ...) __attribute__((format(printf, 5, 6)));

void api_error_print(struct buf *out, const struct api_error *e); // the JSON body
/* {"type":"error","error":{"type":..,"message":..}}: Anthropic's, whose clients read nothing else. */
void api_error_print_anthropic(struct buf *out, const struct api_error *e);
/* In the shape of the API that the request's path is of. */
void api_error_respond(struct http_exchange *x, const struct api_error *e);
/* For streams whose head is out: `data: {"error":{...}}\n\n`. */
void api_error_print_event(struct buf *out, const struct api_error *e);

#endif
