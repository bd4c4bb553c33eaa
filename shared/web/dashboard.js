// The page /dashboard of a proxy: what it says of itself and of its fleet in /lm/status, every two seconds, and plots
// of what that was in the last minutes, of which it remembers ten (/lm/recent). Agents that a proxy has given up are no longer in its answer; here they stay
// for some minutes, as that is what somebody who looks wants to see.

import { getJson, onKeyWanted, request } from "./api.js";
import { el, byId, formatCount, formatSeconds, showLinks } from "./dom.js";
import { askKey } from "./key_dialog.js";
import { Plot } from "./plot.js";
import { Samples } from "./samples.js";

const POLL_MS = 2000;
const TIMEOUT_MS = 8000;
const LOST_SHOWN_S = 600;
const LOG_MAX = 100;
const REPORT_LATE_S = 3;
const FAILURE_RATE_WARN = 0.05;

const samples = new Samples();
let status = null; // the last answer
const seen = new Map(); // id of an agent -> { agent, state, at_s: of the last answer that had it, lost_s }
let failure = null; // why there is no newer answer

const percent = (share) => `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
const rate = (n) => (n < 10 ? n.toFixed(n < 1 && n > 0 ? 2 : 1) : formatCount(Math.round(n)));
const orDash = (value, format) => (value === null || value === undefined ? "–" : format(value));

// ---- what happened ----

function note(text) {
  const now = new Date();
  byId("log").prepend(el("li", {}, el("time", { datetime: now.toISOString() }, now.toLocaleTimeString()), text));
  while (byId("log").children.length > LOG_MAX) byId("log").lastElementChild.remove();
}

let isFollowing = false; // an answer came before

// Compares an answer with what was known. The first one is nothing new.
function follow(agents, now_s) {
  const first = !isFollowing;
  isFollowing = true;
  for (const agent of agents) {
    const known = seen.get(agent.id);
    const state = agent.breaker === "closed" ? agent.state : `${agent.state}, breaker ${agent.breaker}`;
    if (!known && !first) note(`${agent.id} joined (${state})`);
    else if (known?.lost_s) note(`${agent.id} is back (${state})`);
    else if (known && known.state !== state) note(`${agent.id}: ${known.state} → ${state}`);
    seen.set(agent.id, { agent, state, at_s: now_s });
  }
  for (const [id, known] of seen) {
    if (known.at_s === now_s) continue;
    const left = known.agent.state === "draining";
    if (!known.lost_s) {
      note(left ? `${id} left` : `${id} is lost`);
      known.lost_s = now_s;
    }
    if (left || now_s - known.lost_s > LOST_SHOWN_S) seen.delete(id);
  }
}

// ---- alerts ----

function alertsOf(status, sample) {
  const alerts = [];
  const add = (kind, text) => alerts.push({ kind, text });
  if (failure) add("bad", failure);
  if (!status) return alerts;
  if (status.phase === "draining") add("warn", "This proxy is draining: it takes no new requests.");
  if (!status.agents.some((agent) => agent.state === "up")) add("bad", "No agent is up: requests can't be served.");
  for (const { agent, lost_s } of seen.values()) {
    if (lost_s) {
      add("bad", `${agent.id} is lost, since ${new Date(lost_s * 1000).toLocaleTimeString()}.`);
      continue;
    }
    if (agent.state === "suspect") add("warn", `${agent.id} is suspect: its reports have stopped, or a probe of it failed.`);
    if (agent.state === "down") add("bad", `${agent.id} is down.`);
    if (agent.breaker !== "closed") add("warn", `${agent.id}: its breaker is ${agent.breaker.replace("_", " ")} after failures.`);
    else if (agent.failure_rate > FAILURE_RATE_WARN) add("warn", `${agent.id} fails ${percent(agent.failure_rate)} of its requests.`);
  }
  if (sample.failures > 0) {
    add("bad", `${sample.failures} request${sample.failures === 1 ? "" : "s"} failed in the last half minute.`);
  }
  if (status.redis === "away") add("warn", "Redis is away: the fleet goes on as it was last known.");
  return alerts;
}

function showAlerts(alerts) {
  const list = byId("alerts");
  const state = JSON.stringify(alerts);
  if (list.dataset.state === state) return; // screen readers tell it once
  list.dataset.state = state;
  list.replaceChildren(...alerts.map(({ kind, text }) => el("li", { class: kind }, text)));
  document.title = alerts.length ? `(${alerts.length}) Fleet` : "Fleet";
}

// ---- figures ----

function tile(name, value, small) {
  return el("div", {}, el("dt", {}, name), el("dd", {}, value, small ? el("small", {}, small) : null));
}

function showTiles(status, sample) {
  const up = status.agents.filter((agent) => agent.state === "up");
  const capacity = up.reduce((sum, agent) => sum + (agent.capacity ?? 0), 0);
  const { hit, moved, lost } = status.sessions;
  byId("tiles").replaceChildren(
    tile("Agents up", `${up.length}`, `of ${seen.size}`),
    tile("Running", `${sample.running}`, capacity ? `room for ${capacity}` : null),
    tile("In the queue", `${sample.waiting}`, sample.waiting ? `${formatCount(status.requests.waiting_bytes)} bytes` : "nobody waits"),
    tile("Requests / s", orDash(sample.requests_per_s, rate), `${formatCount(status.requests.total)} in all`),
    tile("Tokens / s", orDash(sample.tokens_per_s, rate), `${formatCount(status.tokens.completion)} in all`),
    tile("First byte", orDash(sample.first_p50, formatSeconds), `95 %: ${orDash(sample.first_p95, formatSeconds)}`),
    tile("Prefix hits", orDash(sample.hit_rate, percent), `${percent(status.tokens.hit_rate)} in all`),
    tile("Session turns", formatCount(hit + moved), `${formatCount(moved)} moved, ${formatCount(lost)} lost`));
}

function cell(label, style, ...content) {
  return el("td", { "data-label": label, class: style }, ...content);
}

function bar(value, max) {
  return max > 0 ? el("meter", { min: "0", max: String(max), high: String(max * 0.9), optimum: "0", value: String(Math.min(value, max)) }) : null;
}

const STYLES = { up: "good", draining: "warn", suspect: "warn" };

function agentRow({ agent, lost_s }) {
  const state = lost_s ? "lost" : agent.state;
  const named = agent.foreign ? "" : agent.models.join(", ");
  const silent = lost_s || agent.foreign;
  const late = !silent && agent.report_age_s > REPORT_LATE_S;
  return el("tr", { "data-agent": agent.id },
    cell("Agent", null, el("b", {}, agent.id), el("small", { title: agent.url }, named || agent.url)),
    cell("State", null, el("span", { class: `state ${STYLES[state] ?? "bad"}` }, state)),
    cell("Load", null, lost_s ? "–" : agent.foreign ? `${agent.in_flight} sent` : `${agent.running} of ${agent.capacity}`,
      silent ? null : bar(agent.running, agent.capacity)),
    cell("Waiting", null, silent ? "–" : `${agent.waiting}`,
      !silent && agent.waiting_tokens ? el("small", {}, `${formatCount(agent.waiting_tokens)} tokens`) : null),
    cell("KV cache", null, silent ? "–" : percent(agent.kv_used_share), silent ? null : bar(agent.kv_used_share, 1)),
    cell("Between tokens", null, silent ? "–" : orDash(agent.inter_token_s, formatSeconds)),
    cell("Failures", agent.failure_rate > FAILURE_RATE_WARN ? "warn" : null, `${formatCount(agent.failures)} of ${formatCount(agent.dispatches)}`),
    cell("Breaker", agent.breaker === "closed" || lost_s ? null : "warn", lost_s ? "–" : agent.breaker.replace("_", " ")),
    cell("Last report", late ? "warn" : null, silent ? "–" : orDash(agent.report_age_s, (age) => `${formatSeconds(age)} ago`)));
}

function showAgents() {
  const isFine = ({ agent, lost_s }) => !lost_s && agent.state === "up" && agent.breaker === "closed";
  const rows = [...seen.values()].sort((a, b) => isFine(a) - isFine(b) || // those in trouble first
    a.agent.id.localeCompare(b.agent.id, undefined, { numeric: true }));
  byId("agents").tBodies[0].replaceChildren(...rows.map(agentRow));
  byId("agents").hidden = rows.length === 0;
  byId("none").hidden = rows.length > 0;
}

function showAbout(status) {
  byId("about").textContent = `Proxy ${status.id} · ${status.version} · up ${formatSeconds(status.uptime_s)} · ` +
    `routing ${status.routing}${status.redis === "none" ? "" : ` · Redis ${status.redis}`}`;
}

// ---- plots ----

const plots = [
  new Plot("First byte", [
    { name: "median", value: (sample) => sample.first_p50 }, { name: "95 %", value: (sample) => sample.first_p95 },
  ], { format: formatSeconds }),
  new Plot("Between tokens", [{ name: "mean", value: (sample) => sample.inter_token_s }], { format: formatSeconds }),
  new Plot("Tokens / s", [{ name: "answers", value: (sample) => sample.tokens_per_s }], { format: rate }),
  new Plot("Requests / s", [{ name: "all", value: (sample) => sample.requests_per_s }], { format: rate }),
  new Plot("Requests", [
    { name: "running", value: (sample) => sample.running }, { name: "waiting", value: (sample) => sample.waiting },
  ], { format: (n) => (Number.isInteger(n) ? formatCount(n) : n.toFixed(1)) }),
  new Plot("Prefix hits", [{ name: "of prompt tokens", value: (sample) => sample.hit_rate }], { format: percent, top: 1 }),
];

// ---- polling ----

async function poll() {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(), TIMEOUT_MS);
  const now_s = Date.now() / 1000;
  try {
    const options = { signal: controller.signal };
    const [answer, metrics] = await Promise.all([
      getJson("lm/status", options), request("metrics", options).then((response) => response.text())]);
    failure = null;
    status = answer;
    const sample = samples.add(now_s, status, metrics);
    follow(status.agents, now_s);
    showAbout(status);
    showTiles(status, sample);
    showAgents();
  } catch (error) {
    failure = error.name === "AbortError" ? "This proxy does not answer." : error.message;
  } finally {
    clearTimeout(timer);
  }
  showAlerts(alertsOf(status, samples.all.at(-1)));
  for (const plot of plots) plot.draw(samples.all, now_s, samples.spanAt(now_s));
  setTimeout(poll, POLL_MS);
}

onKeyWanted(askKey);
byId("plots").append(...plots.map((plot) => plot.root));
await getJson("lm/recent").then((recent) => samples.fill(Date.now() / 1000, recent), () => {}); // poll() says what is wrong
poll();
showLinks();
