/* api_routes.h - which requests there are, what they take and answer, and which program has them.
 * To add a route: one row in api_routes.c, and its schemas. Tests hold the table against the
 * programs' own routes, and what servers answer against what stands here. */
#ifndef LM_API_API_ROUTES_H
#define LM_API_API_ROUTES_H

#include "shared/api/api_schema.h"

enum api_daemon {
    API_AGENT = 1,
    API_PROXY = 2,
};

/* Of a path, query or header. */
struct api_parameter {
    const char *in; // "path", "query"
    struct api_field field;
};

struct api_answer {
    int status;
    const char *media;  // "application/json"; NULL: an empty body
    const char *schema; // a struct api_schema's name; NULL: a string
    const char *doc;
};

#define API_ANSWERS_MAX    4
#define API_ERRORS_MAX     12
#define API_PARAMETERS_MAX 2

struct api_route {
    const char *method, *path; // "GET", "/v1/models/{id}"
    const char *id;            // operationId: what clients' methods are called
    const char *tag;           // of api_tags
    const char *summary;       // a phrase
    const char *doc;           // more, or NULL
    unsigned daemons;          // of enum api_daemon
    struct api_parameter parameters[API_PARAMETERS_MAX];
    const char *request; // a struct api_schema's name, or NULL
    bool body_optional;
    struct api_answer answers[API_ANSWERS_MAX]; // status 0 ends them
    int errors[API_ERRORS_MAX];                 // statuses with an ErrorResponse; 0 ends them
    const char *error;                          // in its place, a struct api_schema's name
    bool is_open;                               // needs no key
    bool is_relayed;                            // a proxy sends it on, and answers when that fails
    bool is_page;                               // for people: not part of /openapi.json
};

struct api_tag {
    const char *name, *doc;
};

extern const struct api_route api_routes[];
extern const size_t api_route_count;
extern const struct api_tag api_tags[];
extern const size_t api_tag_count;

/* Statuses with an ErrorResponse that this program gives on the route, ascending: its own and those
 * that all have; returns how many. */
#define API_ROUTE_ERRORS_MAX 24
int api_route_errors(const struct api_route *r, enum api_daemon daemon,
                     int out[API_ROUTE_ERRORS_MAX]);
/* "no such model, session or route"; NULL: no route gives that status. */
const char *api_status_find(int status);

#endif
