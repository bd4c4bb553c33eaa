// One answer of the model, by either way: a chat, whose messages are all sent each time, or a turn of a session,
// whose history the server keeps. Both fill a message as its parts come and call `changed` after each.
//
// A session's messages remember where they stand in its history: span = { from, to } in tokens, before the turn and
// behind it. To edit a message, to answer it anew or to go back is a turn with `rewind_to`; to branch off is one with
// `fork_of`. Both wait in the conversation (rewindTo, forkOf) for the next turn, as the server has no other way.

import { ApiError, events, getJson, lines, request } from "./api.js";

const STOP_GRACE_MS = 5000; // a cancelled turn's last line

// Fields that the user has set; empty ones are the server's to choose.
function sampling(settings, names) {
  const fields = {};
  for (const [setting, field] of Object.entries(names)) {
    const text = String(settings[setting] ?? "").trim();
    if (text !== "" && Number.isFinite(Number(text))) fields[field] = Number(text);
  }
  return fields;
}

function extraFields(settings) {
  if (!settings.extra?.trim()) return {};
  let fields;
  try {
    fields = JSON.parse(settings.extra);
  } catch (error) {
    throw new ApiError(0, `The extra fields in the settings are not JSON: ${error.message}`);
  }
  if (fields === null || typeof fields !== "object" || Array.isArray(fields)) {
    throw new ApiError(0, "The extra fields in the settings are not a JSON object.");
  }
  return fields;
}

// What the model is told, without answers that never came.
function history(conversation, upTo) {
  const told = conversation.messages.slice(0, upTo)
    .filter((message) => message.role === "user" || message.content || message.finish)
    .map(({ role, content }) => ({ role, content }));
  return conversation.system?.trim() ? [{ role: "system", content: conversation.system }, ...told] : told;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiError(0, "The server sent something that is not JSON.");
  }
}

// ---- time ----

class Clock {
  constructor() {
    this.begun = performance.now();
  }

  token() {
    this.last = performance.now();
    this.first ??= this.last;
  }

  // Between the first token and the last one there are count - 1 of them.
  stats(count, prompt, cached) {
    const stats = { tokens: count, prompt, cached };
    if (this.first !== undefined) {
      stats.first_s = (this.first - this.begun) / 1000;
      const span = (this.last - this.first) / 1000;
      if (count > 1 && span > 0) stats.per_s = (count - 1) / span;
    }
    return stats;
  }
}

// ---- a chat ----

function takeToolCalls(message, calls, clock) {
  message.tools ??= [];
  for (const call of calls) {
    const at = call.index ?? message.tools.length;
    const tool = (message.tools[at] ??= { name: "", arguments: "" });
    tool.name += call.function?.name ?? "";
    tool.arguments += call.function?.arguments ?? "";
  }
  clock.token();
}

function takeDelta(message, delta, clock) {
  const reasoning = delta.reasoning_content ?? delta.reasoning;
  if (typeof reasoning === "string" && reasoning) {
    message.reasoning = (message.reasoning ?? "") + reasoning;
    clock.token();
  }
  if (typeof delta.content === "string" && delta.content) {
    message.content += delta.content;
    clock.token();
  }
  if (typeof delta.refusal === "string" && delta.refusal) message.content += delta.refusal;
  if (Array.isArray(delta.tool_calls)) takeToolCalls(message, delta.tool_calls, clock);
}

// A chunk of a stream, or a whole answer: they differ in the name of the member that holds the text.
function takeChunk(message, chunk, clock) {
  if (chunk.error) throw new ApiError(0, chunk.error.message ?? "The server gave up.", chunk.error.code);
  const choice = chunk.choices?.[0];
  const delta = choice?.delta ?? choice?.message;
  if (delta) takeDelta(message, delta, clock);
  if (choice?.finish_reason) message.finish = choice.finish_reason;
  if (!chunk.usage) return;
  const { completion_tokens, prompt_tokens, prompt_tokens_details } = chunk.usage;
  message.stats = clock.stats(completion_tokens, prompt_tokens, prompt_tokens_details?.cached_tokens ?? 0);
}

export async function runChat(conversation, message, settings, signal, changed) {
  const at = conversation.messages.indexOf(message);
  const clock = new Clock();
  const response = await request("v1/chat/completions", {
    method: "POST", signal,
    body: {
      model: settings.model, messages: history(conversation, at), stream: true,
      stream_options: { include_usage: true },
      ...sampling(settings, { temperature: "temperature", top_p: "top_p", max_tokens: "max_tokens", seed: "seed" }),
      ...extraFields(settings),
    },
  });
  // A server may answer in one piece although a stream was asked for.
  const isStream = !/^application\/json/.test(response.headers.get("content-type") ?? "");
  let done = false;
  for await (const data of isStream ? events(response) : [await response.text()]) {
    if (data === "[DONE]") {
      done = true;
      break;
    }
    takeChunk(message, parsed(data), clock);
    changed();
  }
  if (!done && !message.finish) throw new ApiError(0, "The answer was cut off: the connection was lost.");
}

// ---- a turn of a session ----

// Where in the server's history the message `at` begins; undefined where that can't be known.
function placeOf(conversation, at) {
  const before = conversation.messages.slice(0, at).findLast((message) => message.role === "assistant");
  if (before) return before.span?.to;
  const behind = conversation.messages.slice(at).find((message) => message.span);
  if (behind) return behind.span.from;
  return conversation.unseen ? undefined : 0;
}

// Shown messages before `at` stay, the rest is forgotten with the next turn.
export function rewindSession(conversation, at) {
  if (conversation.sessionId >= 0 || conversation.forkOf >= 0) {
    const to = placeOf(conversation, at);
    if (to === undefined) beginAnew(conversation);
    else conversation.rewindTo = to;
  }
  conversation.messages.length = at;
}

// A conversation that goes on from the messages before `at` on its own; the server's part of it is a fork.
export function branchOf(conversation, at, branch) {
  branch.title = conversation.title;
  branch.unseen = conversation.unseen;
  branch.messages = structuredClone(conversation.messages.slice(0, at));
  if (conversation.kind !== "session") return branch;
  branch.sessionId = -1;
  const to = placeOf(conversation, at);
  if (conversation.sessionId >= 0 && to !== undefined) {
    branch.forkOf = conversation.sessionId;
    branch.rewindTo = to;
  }
  return branch;
}

// The next turn sends all that is shown as the history of a new session.
export function beginAnew(conversation) {
  conversation.sessionId = -1;
  delete conversation.forkOf;
  delete conversation.rewindTo;
  delete conversation.unseen;
}

// What a turn sends: the last message; all of them where the server has none yet.
function sessionPrompt(conversation, at) {
  const asked = conversation.messages[at - 1].content;
  if (conversation.sessionId >= 0 || conversation.forkOf >= 0) return asked;
  const told = history(conversation, at);
  return told.length > 1 ? told : asked;
}

// Leaving would end the turn as well, but without saying how long it is; then a later rewind had no place to go to.
export async function stopTurn(run) {
  const id = run.conversation.sessionId;
  if (run.conversation.kind !== "session" || !(id >= 0)) {
    run.controller.abort();
    return;
  }
  const timer = setTimeout(() => run.controller.abort(), STOP_GRACE_MS);
  run.ended.finally(() => clearTimeout(timer));
  await request("v1/chat/interactive", {
    method: "POST", body: { prompt: "", session_id: id, cancel: true, model: run.model || undefined },
  }).catch(() => run.controller.abort());
}

function takeSessionHead(conversation, message, response, expected) {
  const id = Number(response.headers.get("x-lm-session-id") ?? -1);
  if (id >= 0) conversation.sessionId = id;
  message.notes = [];
  if (expected && response.headers.get("x-lm-session-new") === "1") {
    message.notes.push("The server had no history of this session: it began anew with this turn.");
  }
  if (response.headers.get("x-lm-session-moved") === "1") message.notes.push("Taken over by another agent.");
}

export async function runSession(conversation, message, settings, signal, changed) {
  const at = conversation.messages.indexOf(message);
  const clock = new Clock();
  const continues = conversation.sessionId >= 0;
  const response = await request("v1/chat/interactive", {
    method: "POST", signal,
    body: {
      model: settings.model || undefined, prompt: sessionPrompt(conversation, at), interactive_mode: true, stream: true,
      session_id: conversation.sessionId ?? -1,
      fork_of: continues ? undefined : conversation.forkOf,
      rewind_to: conversation.rewindTo,
      ...sampling(settings, {
        temperature: "temperature", top_p: "top_p", max_tokens: "request_output_len", seed: "seed",
      }),
      ...extraFields(settings),
    },
  });
  takeSessionHead(conversation, message, response, continues && (at > 1 || conversation.unseen) && conversation.rewindTo !== 0);
  delete conversation.forkOf;
  delete conversation.rewindTo;
  changed();
  for await (const line of lines(response)) {
    if (!line.trim()) continue;
    const part = parsed(line);
    if (part.text) {
      message.content += part.text;
      clock.token();
    }
    if (part.error) throw new ApiError(0, part.error.message ?? "The server gave up.", part.error.code);
    if (part.finish_reason) {
      message.finish = part.finish_reason;
      message.stats = clock.stats(part.tokens, part.input_tokens, null);
      message.span = { from: part.history_tokens, to: part.history_tokens + part.input_tokens + part.tokens };
    }
    changed();
  }
  if (!message.finish) throw new ApiError(0, "The answer was cut off: the connection was lost.");
}

// ---- sessions of the server ----

export async function listSessions() {
  const list = await getJson("v1/sessions");
  return { sessions: list.data ?? [], complete: list.complete !== false };
}

export async function endSession(id) {
  await request(`v1/sessions/${id}`, { method: "DELETE" });
}
