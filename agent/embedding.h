/* embedding.h - POST /v1/embeddings: one HTTP request and an engine request for each of its inputs, of
 * which so many are under way as the batch has room for. Loop thread only. */
#ifndef LM_AGENT_EMBEDDING_H
#define LM_AGENT_EMBEDDING_H

#include "agent/abort_target.h"
#include "agent/completion.h"

struct embedding_service {
    struct completion_service *completions; // bridge, worker, phase, limits
    enum engine_pool pool;                  // NONE: the model gives none, all get 400
    int hidden;                             // floats of a vector
    struct list live;                       // of struct embedding
};

void embedding_service_init(struct embedding_service *s, struct completion_service *completions);
/* Takes the exchange over. */
void embedding_start(struct embedding_service *s, struct http_exchange *x);
/* End those that are meant with 499; their number. */
int embedding_stop(struct embedding_service *s, const struct abort_target *target);
/* End all with 503; the service is draining. */
void embedding_abort(struct embedding_service *s);

#endif
