// Figures of a proxy over the last minutes, from what it counts since its start: a sample every few seconds, and
// rates and quantiles of the differences between two of them. What was before the page is in /lm/recent.

const SPAN_S = 600;
const WINDOW_S = 30; // of rates and quantiles: a point of a plot is what happened in that time before it

// Prometheus' text -> { name or name{labels}: number }.
export function parseMetrics(text) {
  const values = {};
  for (const line of text.split("\n")) {
    if (!line || line[0] === "#") continue;
    const at = line.lastIndexOf(" ");
    values[line.slice(0, at)] = Number(line.slice(at + 1));
  }
  return values;
}

const BUCKET = /^(\w+)_bucket\{le="([^"]+)"\}$/;

// { name: [[upper bound, count up to it]] }
export function histograms(values) {
  const found = {};
  for (const [key, count] of Object.entries(values)) {
    const match = BUCKET.exec(key);
    if (match) (found[match[1]] ??= []).push([match[2] === "+Inf" ? Infinity : Number(match[2]), count]);
  }
  return found;
}

// Of what came between two readings of a histogram, by straight lines inside a bucket, as Prometheus does; null:
// nothing came.
export function quantile(share, before, after) {
  if (!after?.length) return null;
  const counts = after.map(([bound, count], at) => [bound, count - (before?.[at]?.[1] ?? 0)]);
  const total = counts.at(-1)[1];
  if (!(total > 0)) return null;
  const wanted = share * total;
  let lower = 0;
  let below = 0;
  for (const [bound, count] of counts) {
    if (count >= wanted) {
      if (bound === Infinity) return lower;
      return lower + (bound - lower) * ((wanted - below) / Math.max(count - below, 1e-9));
    }
    lower = bound;
    below = count;
  }
  return lower;
}

const sum = (counts) => Object.values(counts ?? {}).reduce((total, n) => total + n, 0);

// Between tokens, as the agents that are busy measure it (proxy/recent.c does the same); null: none has said.
function interToken(agents) {
  const known = agents.filter((agent) => agent.state === "up" && agent.inter_token_s > 0);
  const weight = (agent) => agent.running || 1e-3;
  const total = known.reduce((all, agent) => all + weight(agent), 0);
  return total ? known.reduce((all, agent) => all + agent.inter_token_s * weight(agent), 0) / total : null;
}

export class Samples {
  constructor() {
    this.all = [];
    this.id = null; // of the process
  }

  // What the proxy remembers from before the page was opened.
  fill(now_s, recent) {
    this.id = recent.id;
    for (const { age_s, first_byte, inter_token_s, ...counts } of recent.samples) {
      let below = 0;
      const first = first_byte.map((count, at) => [recent.first_byte_le[at] ?? Infinity, below += count]);
      this.put({ at_s: now_s - age_s, first, inter_token_s: inter_token_s ?? null, ...counts });
    }
  }

  // status: of /lm/status; metrics: the text of /metrics. Returns the new sample.
  add(at_s, status, metrics) {
    if (this.id !== status.id) this.all = []; // another process: its counters began anew
    this.id = status.id;
    const { requests, tokens, agents } = status;
    return this.put({
      at_s, requests: requests.total, failed: requests.failed + requests.lost,
      prompt: tokens.prompt, completion: tokens.completion, cached: tokens.cached,
      running: sum(requests.running), waiting: sum(requests.waiting), inter_token_s: interToken(agents),
      first: histograms(parseMetrics(metrics)).lm_proxy_first_byte_seconds,
    });
  }

  put(sample) {
    while (this.all.length && sample.at_s - this.all[0].at_s > SPAN_S) this.all.shift();
    const from = this.all.findLast((earlier) => sample.at_s - earlier.at_s >= WINDOW_S) ?? this.all[0];
    this.all.push(Object.assign(sample, differences(from, sample)));
    return sample;
  }

  // What plots show: all there is, in round minutes.
  spanAt(now_s) {
    const have_s = this.all.length ? now_s - this.all[0].at_s : 0;
    return [120, 300].find((span_s) => have_s <= span_s) ?? SPAN_S;
  }
}

function differences(from, to) {
  if (!from) return { requests_per_s: null, tokens_per_s: null, hit_rate: null, first_p50: null, first_p95: null };
  const span = to.at_s - from.at_s;
  const prompt = to.prompt - from.prompt;
  return {
    requests_per_s: (to.requests - from.requests) / span,
    tokens_per_s: (to.completion - from.completion) / span,
    hit_rate: prompt > 0 ? (to.cached - from.cached) / prompt : null,
    failures: to.failed - from.failed,
    first_p50: quantile(0.5, from.first, to.first),
    first_p95: quantile(0.95, from.first, to.first),
  };
}
