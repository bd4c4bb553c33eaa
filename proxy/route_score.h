/* route_score.h - how many seconds an agent would need, in predicted time to the first token plus
 * what its state makes worse. The one currency of routing: queue, cache, decode and failures are
 * weighed against each other in seconds, with no thresholds in between.
 *
 *   T = ((W + O + c*U) / P + a*R*0.25*G + b*k/(1 - k) + E) * slow + stale
 *
 *   W  uncached prompt tokens waiting there, by its report, less what it has computed since
 *   O  our own tokens that the report can't contain
 *   U  this prompt's tokens less those cached there
 *   c  what computing costs everybody: 1 / (1 - share of agents with prompts waiting), at most 20
 *   P  its prefill rate as it measures it, tokens/s: beside the answers that run there
 *   R  sequences there, ours counted by us
 *   a  seconds that a sequence adds to each step             G  expected tokens of this answer
 *   k  KV share of active sequences                          E  failure rate * 2 s
 *   slow  5 at birth, falling to 1 in 20 s
 *   stale 0.25 s for an agent without a report in the last 3 s; then W = k = 0 and O is the tokens
 *         of ours whose answers have not begun
 *
 * W, O and P alone would be the time to the first token. But a token that needn't be computed is also
 * time for whoever comes after: with a share x of the agents' time taken, a second of work delays
 * others by x/(1 - x) seconds in all, as in any queue. Without c a busy fleet moves sessions to idle
 * agents one by one until nobody's history is cached where it is asked for, and the work doubles
 * (docs/routing.md, Simulation).
 *
 * Pure arithmetic. */
#ifndef LM_PROXY_ROUTE_SCORE_H
#define LM_PROXY_ROUTE_SCORE_H

#include "proxy/fleet.h"

/* One set for all routers; a simulation may vary it. */
struct route_weights {
    double decode_share; // of a*R*G that counts
    double crowding_max; // c at most
    double crowding_share,
        crowding_s; // of a new sample in the average of x, at least; and per second
    double kv_s;    // b
    double failure_s;
    double slow_start_s, slow_start_factor; // 20 s, +4 at birth
    double stale_s;
    uint64_t stale_ms;
    double tie_s, tie_share;               // within the larger of both: equally good
    double hysteresis_s, hysteresis_share; // a session stays for as much
    double explore_share;                  // of requests without a pin: any of the tied
    double nominal_prefill_per_s;          // while no candidate's rate is known
    double nominal_slope_s;
};

extern const struct route_weights route_weights_default;

/* What is known of one agent now. */
struct route_reading {
    double waiting_tokens; // W, by now
    double own_tokens;     // O
    double prefill_per_s;  // P; 0: unknown, to be filled in
    double sequences;      // R
    double slope_s;        // a; 0: unknown
    double kv_share;       // k
    double failure_rate;
    double age_s;
    bool is_stale;
};

void route_score_read(const struct route_weights *w, const struct fleet_agent *a, uint64_t now_ms,
                      struct route_reading *out);
/* uncached_tokens: c*U. */
double route_score_seconds(const struct route_weights *w, const struct route_reading *a,
                           double uncached_tokens, double output_tokens);

#endif
