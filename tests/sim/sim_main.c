/* lm-sim: a fleet under traffic, in simulated time, routed by the proxy's own code. */
#include "tests/sim/sim_run.h"

#include "shared/base/backtrace.h"
#include "shared/base/check.h"
#include "shared/base/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sim_options {
    struct sim_setup setup;
    int scenario;
    char *policy;
    struct option_list weights;
    bool progress;
};

#define FIELD(name) offsetof(struct sim_options, name)
#define SETUP(name) offsetof(struct sim_options, setup.name)

static const struct option sim_option_table[] = {
    {"agents", OPTION_INT, SETUP(agents), .def = "1000", .min = 2, .max = FLEET_AGENTS_MAX,
     .arg = "N", .group = "Size", .help = "agents of the fleet"},
    {"proxies", OPTION_INT, SETUP(proxies), .def = "8", .min = 1, .max = SIM_PROXIES_MAX,
     .arg = "N", .group = "Size", .help = "proxies that share the traffic at random"},
    {"sessions", OPTION_INT, SETUP(sessions), .def = "1000000", .min = 100, .max = 10000000,
     .arg = "N", .group = "Size", .help = "sessions in all; each has about four turns"},
    {"systems", OPTION_INT, SETUP(systems), .def = "4000", .min = 1, .max = 65000, .arg = "N",
     .group = "Size", .help = "system prompts that sessions share, by Zipf's law"},
    {"seed", OPTION_INT, SETUP(seed), .def = "1", .min = 0, .max = 1 << 30, .arg = "N",
     .group = "Size", .help = "other sessions, and another order"},

    {"policy", OPTION_STRING, FIELD(policy), .def = "all", .arg = "NAME|all", .group = "Rows",
     .help = "a routing strategy of lm-proxy, oracle, oracle_sparing or session_hash; several with "
             "commas"},
    {"scenario", OPTION_CHOICE, FIELD(scenario), .def = "all", .choices = SIM_SCENARIO_NAMES,
     .group = "Rows", .help = "what happens meanwhile"},
    {"load", OPTION_DOUBLE, SETUP(load), .def = "0", .min = 0, .max = 2, .arg = "SHARE",
     .group = "Rows",
     .help =
         "of what the fleet can serve with warm caches and full batches; 0 means the scenario's"},

    {"weight", OPTION_LIST, FIELD(weights), .arg = "NAME=NUMBER", .group = "Rows",
     .help = "another weight of the score (proxy/route_score.h), to see what it does; repeat it"},

    {"prefill-rate", OPTION_DOUBLE, SETUP(prefill_per_s), .def = "8000", .min = 10, .max = 1e7,
     .arg = "TOKENS", .group = "Agents",
     .help = "prompt tokens that an agent computes in a second"},
    {"step-base", OPTION_DOUBLE, SETUP(base_ms), .def = "15", .min = 0.01, .max = 10000,
     .arg = "MS", .group = "Agents", .help = "time of a step"},
    {"step-slope", OPTION_DOUBLE, SETUP(slope_ms), .def = "0.25", .min = 0, .max = 1000,
     .arg = "MS", .group = "Agents", .help = "more for each answer in it"},
    {"batch", OPTION_INT, SETUP(batch), .def = "64", .min = 1, .max = SIM_BATCH_MAX, .arg = "N",
     .group = "Agents", .help = "sequences that run at once"},
    {"kv-tokens", OPTION_INT, SETUP(kv_tokens), .def = "400000", .min = 50000, .max = 1e9,
     .arg = "TOKENS", .group = "Agents", .help = "that the key-value cache holds"},
    {"report-news", OPTION_DOUBLE, SETUP(news_s), .def = "0.1", .min = 0, .max = 10,
     .arg = "SECONDS", .group = "Agents",
     .help = "of prompts since the last report that make an agent report at once; 0 means never"},
    {"prefix-entries", OPTION_INT, SETUP(prefix_entries), .def = "1048576", .min = 1024,
     .max = 1 << 24, .arg = "N", .group = "Agents",
     .help = "prefixes that a proxy's table holds, as its --prefix-entries"},

    {"progress", OPTION_FLAG, FIELD(progress), .group = "Output",
     .help = "say on standard error what each run took"},
};

static const struct config_program sim_program = {
    .name = "lm-sim",
    .usage = "lm-sim [options]",
    .summary = "Simulate a fleet of agents under chat traffic, routed by lm-proxy's own code, and "
               "print a table of routing strategies.",
    .footer = "  lm-sim --policy affinity --scenario steady\n"
              "  lm-sim --agents 50 --sessions 20000\n"
              "  lm-sim --scenario hot --load 0.8 --policy affinity,oracle\n",
    .options = sim_option_table,
    .count = ARRAY_LEN(sim_option_table),
};

#define ROWS_MAX 16

static const struct sim_row other_rows[] = {
    {"oracle", SIM_PICK_ORACLE, NULL},
    {"oracle_sparing", SIM_PICK_SPARING, NULL},
    {"session_hash", SIM_PICK_SESSION_HASH, NULL},
};

/* The next of names between separators; false at the end. */
static bool next_name(const char **at, char separator, char out[64])
{
    if (!*at) return false;
    const char *end = strchr(*at, separator);
    size_t len = end ? (size_t)(end - *at) : strlen(*at);
    if (len > 63) len = 63;
    memcpy(out, *at, len);
    out[len] = 0;
    *at = end ? end + 1 : NULL;
    return true;
}

static bool add_row(const char *name, struct sim_row rows[ROWS_MAX], int *count)
{
    struct sim_row row = {.name = NULL};
    for (size_t i = 0; i < ARRAY_LEN(other_rows); i++) {
        if (!strcmp(name, other_rows[i].name)) row = other_rows[i];
    }
    const struct route_policy *policy = route_policy_find(name);
    if (policy) row = (struct sim_row){policy->name, SIM_PICK_POLICY, policy};
    if (!row.name || *count == ROWS_MAX) return false;
    rows[(*count)++] = row;
    return true;
}

static bool is_oracle(const struct sim_row *row)
{
    return row->picker == SIM_PICK_ORACLE || row->picker == SIM_PICK_SPARING;
}

static int find_rows(const char *names, struct sim_row rows[ROWS_MAX])
{
    char name[64];
    int count = 0;
    if (!strcmp(names, "all")) {
        for (size_t i = 0; i < ARRAY_LEN(other_rows); i++)
            rows[count++] = other_rows[i];
        const char *at = ROUTE_POLICY_NAMES;
        while (next_name(&at, '|', name))
            CHECK(add_row(name, rows, &count));
        return count;
    }
    while (next_name(&names, ',', name)) {
        if (add_row(name, rows, &count)) continue;
        fprintf(stderr,
                "lm-sim: no routing strategy is called '%s'; there are oracle, oracle_sparing, "
                "session_hash, %s\n",
                name, ROUTE_POLICY_NAMES);
        return -1;
    }
    return count;
}

static const struct weight {
    const char *name;
    size_t offset;
} weight_table[] = {
#define WEIGHT(name)                                \
    {                                               \
#name, offsetof(struct route_weights, name) \
    }
    WEIGHT(decode_share),
    WEIGHT(crowding_max),
    WEIGHT(crowding_share),
    WEIGHT(crowding_s),
    WEIGHT(kv_s),
    WEIGHT(failure_s),
    WEIGHT(slow_start_s),
    WEIGHT(slow_start_factor),
    WEIGHT(stale_s),
    WEIGHT(tie_s),
    WEIGHT(tie_share),
    WEIGHT(hysteresis_s),
    WEIGHT(hysteresis_share),
    WEIGHT(explore_share),
};

static int set_weight(struct route_weights *w, const char *text)
{
    const char *equals = strchr(text, '=');
    for (size_t i = 0; equals && i < ARRAY_LEN(weight_table); i++) {
        size_t len = strlen(weight_table[i].name);
        if (len != (size_t)(equals - text) || memcmp(text, weight_table[i].name, len)) continue;
        char *end;
        double value = strtod(equals + 1, &end);
        if (end == equals + 1 || *end) break;
        memcpy((char *)w + weight_table[i].offset, &value, sizeof value);
        return 0;
    }
    fprintf(stderr, "lm-sim: --weight wants NAME=NUMBER, not '%s'; names:", text);
    for (size_t i = 0; i < ARRAY_LEN(weight_table); i++)
        fprintf(stderr, " %s", weight_table[i].name);
    fprintf(stderr, "\n");
    return -1;
}

static void say_progress(const struct sim_result *r)
{
    fprintf(stderr,
            "%s %s: %.0f s simulated in %.1f s, %.0f MiB; %llu requests, %llu errors (%llu in the "
            "queue), %llu abandoned, %llu retries, %llu resumed; proxy queue mean %.2f ms, "
            "cached tokens off by %.0f a request\n",
            r->scenario, r->policy, r->simulated_s, r->wall_s, (double)r->memory_bytes / (1 << 20),
            (unsigned long long)r->offered, (unsigned long long)r->errors,
            (unsigned long long)r->expired, (unsigned long long)r->abandoned,
            (unsigned long long)r->retries, (unsigned long long)r->resumed,
            1e3 * sim_histogram_mean(&r->queue),
            r->first_token.count ? r->expected_error / (double)r->first_token.count : 0);
}

/* The ratio is to the better of the oracles: they come first, and are printed when all have run. */
static void run_scenario(const struct sim_options *o, const struct sim_scenario *scenario,
                         const struct sim_row *rows, int count, const struct route_weights *weights)
{
    struct sim_workload work;
    struct sim_result *results = xcalloc((size_t)count, sizeof *results), *best = NULL;
    sim_workload_init(&work, (uint64_t)o->setup.seed, (uint32_t)o->setup.sessions,
                      (uint32_t)o->setup.systems, scenario->hot_share);
    if (o->progress) {
        fprintf(stderr,
                "%s: %.2f turns a session; a prompt has %.0f tokens, %.0f of them new, an answer "
                "%.0f\n",
                scenario->name, work.turns_mean, work.prompt_mean, work.uncached_mean,
                work.answer_mean);
    }
    for (int i = 0, printed = 0; i < count; i++) {
        struct sim_result *r = &results[i];
        sim_run(&o->setup, scenario, &rows[i], weights, &work, r);
        if (o->progress) say_progress(r);
        double mean = sim_histogram_mean(&r->first_token);
        if (is_oracle(&rows[i]) && (!best || mean < sim_histogram_mean(&best->first_token)))
            best = r;
        if (i + 1 < count && is_oracle(&rows[i + 1])) continue;
        for (; printed <= i; printed++)
            sim_result_print(stdout, &results[printed], best);
    }
    free(results);
    sim_workload_deinit(&work);
}

int main(int argc, char **argv)
{
    static struct sim_options options;
    struct error err;
    backtrace_install("lm-sim");
    int status = config_parse(&sim_program, argc, argv, &options, NULL, NULL, &err);
    if (status == CONFIG_EXIT) return 0;
    if (status < 0) {
        fprintf(stderr, "lm-sim: %s\n", err.text);
        return EXIT_USAGE;
    }
    struct sim_row rows[ROWS_MAX];
    struct route_weights weights = route_weights_default;
    int count = find_rows(options.policy, rows);
    bool is_usable = count > 0;
    for (size_t i = 0; i < options.weights.count; i++)
        is_usable = set_weight(&weights, options.weights.items[i]) == 0 && is_usable;
    if (is_usable) {
        sim_result_print_head(stdout);
        for (int i = 0; i < sim_scenario_count(); i++) {
            if (options.scenario == 0 || options.scenario == i + 1)
                run_scenario(&options, sim_scenario_at(i), rows, count, &weights);
        }
    }
    config_deinit(&sim_program, &options);
    return is_usable ? 0 : EXIT_USAGE;
}
