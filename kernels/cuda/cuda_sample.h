/* cuda_sample.h - tokens drawn on the device, and reports for log-probabilities: those of kernels/sample.h, from logits
 * that lie there.
 *
 * What rows depend on is one pinned image, sent in one copy; tokens come back in one, reports in another. A row whose
 * lists don't fit into the image is left. Launches, each over all rows:
 *
 *     top      bias, penalties, mask and bans in place; the maximum of each tile of a row
 *     weigh    mass of each tile; rows that top_k or top_p cuts: of each bin of weights     (if any is drawn)
 *     range    the bins that the cuts may lie in                                            (if any is cut)
 *     gather   ids in that range into a list; mass of each tile above it                    (likewise)
 *     finish   the cuts by radix select over the list, the tile that the draw falls into, its token
 *     measure  mass of each tile at temperature 1, the highest logit of each group of tokens    (rows that report)
 *     report   the sum, and the likeliest in a tournament of groups                             (likewise)
 *
 * SAMPLE_SCORE goes the way of a greedy row. All sums are of whole numbers: no result depends on the order of blocks
 * or atomics, and reports have the bits of sample_report(). */
#ifndef LM_KERNELS_CUDA_SAMPLE_H
#define LM_KERNELS_CUDA_SAMPLE_H

#include "kernels/cuda/cuda_memory.h"
#include "kernels/sample.h"

#define CUDA_TURNS 2 // steps that may be under way at once

struct cuda_sample_draw; // a row, as kernels read it

/* Memory that kernels use. */
struct cuda_sample_space {
    const struct cuda_sample_draw *draw; // the image: [rows_max]
    int32_t *token;                      // behind it: [rows_max], of the results
    uint32_t *word;                      // behind that: lists and masks of all rows
    int tiles;                           // of a row
    uint64_t *tile_top;                  // [rows_max][tiles]
    unsigned long long *tile_mass;       // [rows_max][tiles]
    uint32_t *bin_count;                 // [rows_max][bins], like bin_low
    unsigned long long *bin_low;
    uint64_t *range;              // [rows_max][2]
    int *list;                    // [rows_max][as many as a list has]
    int *list_count;              // [rows_max]
    uint64_t *group_top;          // [rows_max][tiles][groups]
    struct sample_report *report; // [rows_max]
};

struct cuda_sampler {
    int rows_max, vocab; // in a step; in a row of logits
    size_t words_max;    // of the image
    struct cuda_sample_space space;
    int turn;                   // of the last run
    uint8_t *image[CUDA_TURNS]; // pinned
    int32_t *token[CUDA_TURNS]; // pinned, [rows_max]: results, once the stream is through
    struct sample_report
        *report[CUDA_TURNS]; // likewise, of rows with logprobs whose token isn't an error
};

void cuda_sample_lay(struct cuda_sampler *s, struct cuda_arena *a, int rows_max, int vocab);
FALLIBLE int cuda_sample_open(struct cuda_sampler *s, struct error *err);
void cuda_sample_close(struct cuda_sampler *s); // zeroed is fine

/* Behind what makes logits[rows][s->vocab], of which the first `vocab` count; rows that are adjusted are changed
 * there. s->token[turn] as backend.h says of sampled(), and s->space.token until the next run. The last run with that
 * turn must have ended. */
FALLIBLE cudaError_t cuda_sample_run(struct cuda_sampler *s, int turn, const struct sample_row *row,
                                     int rows, float *logits, int vocab, cudaStream_t stream);
/* Whether a row's logits are wanted on the host, after the run was enqueued. */
bool cuda_sample_leaves(const struct cuda_sampler *s, int row);

#endif
