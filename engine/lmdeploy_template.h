/* lmdeploy_template.h - LMDeploy's chat templates: its built-in ones by name, and its JSON files. A
 * template is a list of texts that go around contents; it is printed as Jinja, so that there is one
 * way to render. Source: lmdeploy/model.py of LMDeploy 0.6.5. */
#ifndef LM_ENGINE_LMDEPLOY_TEMPLATE_H
#define LM_ENGINE_LMDEPLOY_TEMPLATE_H

#include "shared/base/buf.h"
#include "shared/base/error.h"
#include "shared/base/json.h"

#define LMDEPLOY_STOPS_MAX 16

struct lmdeploy_template { // texts are borrowed; NULL: "", but for meta and generation
    const char *name;
    const char *begin;                 // of the conversation
    const char *system, *meta, *eosys; // meta NULL: no system message unless one is sent
    const char *user, *eoh;
    const char *assistant, *eoa, *separator;
    const char *tool, *eotool;             // both NULL: tool messages are refused
    const char *generation;                // header of the answer; NULL: assistant
    const char *stops[LMDEPLOY_STOPS_MAX]; // texts that end an answer; NULL behind the last
    bool is_completion;                    // contents alone
};

const struct lmdeploy_template *lmdeploy_template_find(struct str name); // NULL: unknown
/* By LMDeploy's rules about parts of a model's path or name; NULL: none is for it. */
const struct lmdeploy_template *lmdeploy_template_match(const char *model);
void lmdeploy_template_list(struct buf *out); // all names, separated by ", "

/* A JSON file's object over the built-in one that its model_name names, else over nothing. *out
 * borrows from `json`. E_FORMAT: a member is unknown or no text. */
FALLIBLE int lmdeploy_template_read(const struct json *json, struct lmdeploy_template *out,
                                    struct error *err);

/* Append Jinja source. adds_bos: the text begins with bos_token, unless `begin` is that. A last
 * message of the assistant is left open for the answer to go on with. */
void lmdeploy_template_print(const struct lmdeploy_template *t, bool adds_bos, struct buf *out);

#endif
