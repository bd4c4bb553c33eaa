/* cuda_turn.cu - what host and device give each other for a step. Steps take turns with two images and two sets of
 * results, so that one may begin while the one before it runs, and its results are still to be read:
 *
 *     begin(N)  sync: N - 1 has ended     image[N % 2] is filled and sent     ...     ended[N % 2] is recorded
 *     begin(N + 1), ahead                 image[(N + 1) % 2]                          ended[(N + 1) % 2]
 *     sync: ended[N % 2], read what N gave
 *
 * The image on the device is there once: copies to it are in order with what reads it. */
#include "kernels/cuda/cuda_state.h"

#include <string.h>

#include "shared/base/check.h"

/* ---- giving ---- */

static void check_step(const struct backend *b, const struct step *step)
{
    CHECK(b->loaded && b->pages.base);
    CHECK(step->tokens >= 0 && step->tokens <= b->limits.tokens_max);
    CHECK(step->sequences >= 0 && step->sequences <= b->limits.sequences_max);
    CHECK(step->rows >= 0 && step->rows <= b->limits.rows_max);
    for (int i = 0; i < step->tokens; i++)
        CHECK(step->ids[i] >= 0 && step->ids[i] < b->model.vocab);
    for (int i = 0; i < step->rows; i++)
        CHECK(step->row[i] >= 0 && step->row[i] < step->tokens);
    for (int i = 0; i < step->links; i++) {
        CHECK(step->link[i].token >= 0 && step->link[i].token < step->tokens);
        CHECK(step->link[i].row >= 0 && step->link[i].row < b->last_rows && !b->is_open);
    }
    if (step->is_ahead) CHECK(!b->is_ahead && !b->is_open);
}

static void check_sequence(const struct backend *b, const struct step_sequence *q, int tokens,
                           const struct step *step)
{
    CHECK(q->first == tokens && q->count > 0 && q->past >= 0);
    CHECK(q->rope_set >= 0 && q->rope_set < b->model.rope_sets);
    CHECK(q->count <= step->tokens - tokens && q->past <= b->limits.context_max - q->count);
    for (int i = 0; i < (q->past + q->count + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS; i++)
        CHECK(q->blocks[i] >= 0 && q->blocks[i] < b->kv_blocks);
}

/* Tokens of the step with padding. A step goes by a graph if every token decodes and gives logits. */
static int padded_tokens(const struct backend *b, const struct step *step)
{
    int most = b->limits.tokens_max;

    if (most > b->limits.rows_max) most = b->limits.rows_max;
    if (step->tokens != step->sequences || step->rows != step->tokens) return 0;
    if (step->hidden_only) return 0; // graphs make logits
    return cuda_graph_tokens(&b->graphs, step->tokens, most);
}

/* Padding is token 0 at position 0, whose K and V go nowhere and whose logits nobody reads. */
static void fill_image(struct backend *b, const struct step *step)
{
    uint8_t *image = b->image.host[b->turn];
    int32_t *id = (int32_t *)image;
    int32_t *link = (int32_t *)(image + b->image.link_at);
    int32_t *position = (int32_t *)(image + b->image.position_at);
    int32_t *rope_set = (int32_t *)(image + b->image.rope_set_at);
    int32_t *row = (int32_t *)(image + b->image.row_at);
    int tokens = 0;

    for (int s = 0; s < step->sequences; s++) {
        const struct step_sequence *q = &step->sequence[s];
        check_sequence(b, q, tokens, step);
        for (int i = 0; i < q->count; i++, tokens++) {
            position[tokens] = q->past + i;
            rope_set[tokens] = q->rope_set;
        }
    }
    CHECK(tokens == step->tokens);
    memcpy(id, step->ids, (size_t)tokens * sizeof *id);
    memcpy(row, step->row, (size_t)step->rows * sizeof *row);
    for (; tokens < b->tokens; tokens++)
        id[tokens] = position[tokens] = rope_set[tokens] = 0;
    for (int i = 0; i < b->tokens; i++)
        link[i] = -1;
    for (int i = 0; i < step->links; i++)
        link[step->link[i].token] = step->link[i].row;
    for (int i = step->rows; i < b->rows; i++)
        row[i] = i;
    cuda_attention_plan_step(&b->attention, step, b->tokens, b->attention_workspace_bytes,
                             image + b->image.plan_at, &b->plan);
}

/* Inputs of a step (ids, links, positions, rows, the plan of attention) go in one copy. Returns the tokens that
 * a graph is for, 0: none. */
int cuda_turn_begin(struct backend *b, const struct step *step)
{
    check_step(b, step);
    int padded = padded_tokens(b, step);
    b->turn = (b->turn + 1) % CUDA_TURNS;
    b->is_ahead = step->is_ahead;
    b->tokens = padded ? padded : step->tokens;
    b->rows = padded ? padded : step->rows;
    cuda_note(b, cudaEventSynchronize(b->ended[b->turn]));
    fill_image(b, step);
    cuda_note(b,
              cudaMemcpyAsync(b->image.device, b->image.host[b->turn],
                              b->image.plan_at + b->plan.bytes, cudaMemcpyHostToDevice, b->stream));
    return padded;
}

void cuda_turn_end(struct backend *b, const struct step *step)
{
    b->last_rows = step->rows;
    b->is_open = b->comm.rank == 0 && step->rows > 0 && !step->is_sampled;
    cuda_note(b, cudaEventRecord(b->ended[b->turn], b->stream));
}

/* ---- waiting ---- */

static int waited_turn(const struct backend *b)
{
    return b->is_ahead ? (b->turn + CUDA_TURNS - 1) % CUDA_TURNS : b->turn;
}

int cuda_sync(struct backend *b, struct error *err)
{
    cudaEvent_t until = b->is_ahead ? b->ended[waited_turn(b)] : NULL;
    cudaError_t rc;

    cuda_note(b, cudaGetLastError()); // of launches; waiting may leave one that is no error
    b->read_turn = waited_turn(b);
    b->is_ahead = false;
    if (cuda_comm_wait(&b->comm, b->stream, until, &rc, err) < 0) return E_DEVICE;
    cuda_note(b, rc);
    return cuda_try(b->failed, b->description, err);
}

bool cuda_has_ended(struct backend *b)
{
    cuda_note(b, cudaGetLastError());
    if (b->failed != cudaSuccess || cuda_comm_check(&b->comm, NULL) < 0) return true;
    if (cudaEventQuery(b->ended[waited_turn(b)]) != cudaErrorNotReady) return true;
    cudaGetLastError(); // CUDA keeps "not ready" like an error
    return false;
}
