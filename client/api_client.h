/* api_client.h - one server's HTTP API, called and waited for.
 *
 * A terminal program does one thing at a time, so a call here runs the event loop until the answer
 * is there. Ctrl-C during a call cancels it and nothing else. Main thread only. */
#ifndef LM_CLIENT_API_CLIENT_H
#define LM_CLIENT_API_CLIENT_H

#include "shared/base/buf.h"
#include "shared/base/error.h"
#include "shared/base/str.h"

struct api_client;

/* url: "http://host:port" or https, with or without "http://", a trailing slash or "/v1".
 * api_key may be NULL; ca_file: see tls.h. Connects to nothing yet. E_INVALID: the URL, or ca_file. */
FALLIBLE int api_client_open(const char *url, const char *api_key, const char *ca_file,
                             struct api_client **out, struct error *err);
void api_client_close(struct api_client *c); // NULL is fine

/* "http://127.0.0.1:8000", for messages. */
const char *api_client_url(const struct api_client *c);

struct api_call {
    const char *path; // "/v1/models"
    struct str body;  // JSON to POST; data NULL: GET

    /* Bytes of a text/event-stream answer; negative ends the call with that code. NULL: such an
     * answer is collected like any other. */
    int (*on_events)(void *arg, const char *data, size_t len, struct error *err);
    void *arg;
};

struct api_reply {
    int status;      // 0: none came
    struct buf body; // what on_events didn't get; at most API_REPLY_MAX bytes
};

#define API_REPLY_MAX ((size_t)64 << 20)

/* 0 when the whole answer is there and its status is 2xx. E_CANCELLED: Ctrl-C. E_UPSTREAM: another
 * status, with the server's own message in *err. Else the connection failed. The reply is to be
 * freed with api_reply_deinit in any case. */
FALLIBLE int api_client_call(struct api_client *c, const struct api_call *call,
                             struct api_reply *reply, struct error *err);
void api_reply_deinit(struct api_reply *reply);

struct json;
/* Message of an OpenAI error object ({"error":{"message":..}}) or of LMDeploy's flat one, made fit
 * for one line of a terminal. False: it is neither. */
bool api_client_error_message(const struct json *answer, char *out, size_t size);

#endif
