#include "agent/dry_run.h"

#include "agent/hub.h"
#include "engine/engine.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define MIB 1048576.0

static const char *const dtype_names[] = {
    [ENGINE_DTYPE_AUTO] = "they are",
    [ENGINE_DTYPE_FLOAT16] = "float16",
    [ENGINE_DTYPE_BFLOAT16] = "bfloat16",
    [ENGINE_DTYPE_FLOAT32] = "float32",
};

static void print(const char *path, const char *dtype, const struct engine_info *info)
{
    int64_t token_bytes = (int64_t)info->kv_block_bytes / ENGINE_BLOCK_TOKENS;
    printf("model        %s%s%s%s\n", path, info->model_name[0] ? " (" : "", info->model_name,
           info->model_name[0] ? ")" : "");
    printf("family       %s\n", info->architecture);
    printf("parameters   %.1f million\n", (double)info->parameters / 1e6);
    printf("format       %s, floats as %s\n", info->format, dtype);
    printf("vocabulary   %d tokens\n", info->vocab_size);
    printf("context      %d tokens\n", info->context_len);
    printf("backend      %s\n", info->backend);
    printf("weights      %.1f MiB\n", (double)info->weights_bytes / MIB);
    printf("activations  %.1f MiB\n", (double)info->activations_bytes / MIB);
    printf("KV cache     %s, %" PRId64 " bytes for a token; %" PRId64 " tokens fit, %.1f MiB\n",
           info->kv_dtype, token_bytes, info->kv_tokens,
           (double)(token_bytes * info->kv_tokens) / MIB);
    for (int i = 0; info->ranks > 1 && i < info->ranks; i++)
        printf("rank %-7d weights %.1f MiB, activations %.1f MiB, KV cache %zu bytes for a token\n",
               i, (double)info->rank[i].weights_bytes / MIB,
               (double)info->rank[i].activations_bytes / MIB,
               info->rank[i].kv_block_bytes / ENGINE_BLOCK_TOKENS);
}

static int measure(const struct agent_config *config, const char *path, struct error *err)
{
    struct engine_options options;
    struct engine *engine = NULL;
    agent_config_engine_options(config, &options);
    options.model_path = path;
    options.measure_only = true;
    int rc = engine_open(&options, &engine, err);
    if (rc < 0) return rc;
    const struct engine_info *info = engine_info(engine);
    print(path, dtype_names[config->dtype], info);
    if (info->kv_blocks == 0)
        rc =
            error_set(err, E_LIMIT, "it does not fit: there is no memory for a KV cache beside it");
    engine_close(engine);
    return rc;
}

int dry_run(const struct agent_config *config)
{
    struct hub_options hub = {config->download_dir, config->revision};
    struct error err = {0};
    char *path = NULL;
    int rc = hub_locate(config->model_path, &hub, &path, &err);
    if (rc == 0) rc = measure(config, path, &err);
    free(path);
    fflush(stdout);
    if (rc < 0) fprintf(stderr, "lm-agent: %s\n", err.text);
    return rc < 0 ? 1 : 0;
}
