// What this browser keeps: settings, and conversations, each under a key of its own, so that two tabs don't write
// over each other's. Bounded: the oldest conversations make room.
//
// A conversation: { id, title, created, updated, kind: "chat" | "session", system, messages, ... }. A session's
// also says { sessionId, forkOf, rewindTo }, see turns.js. A message: { role, content, reasoning, tools, error,
// finish, stats, span }.

const PREFIX = "lm-chat:";
const SETTINGS = "lm-chat-settings";
const CONVERSATIONS_MAX = 200;
const CHARACTERS_MAX = 4 << 20; // of the browser's 5 MiB

export const defaults = {
  model: "", system: "", temperature: "", top_p: "", max_tokens: "", seed: "", extra: "",
};

function read(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null;
  }
}

export function loadSettings() {
  return { ...defaults, ...read(SETTINGS) };
}

export function saveSettings(settings) {
  try {
    localStorage.setItem(SETTINGS, JSON.stringify(settings));
  } catch {
    // this tab goes on with them
  }
}

function stored() {
  const found = [];
  try {
    for (let i = 0; i < localStorage.length; i++) {
      const key = localStorage.key(i);
      if (!key.startsWith(PREFIX)) continue;
      const conversation = read(key);
      if (!Array.isArray(conversation?.messages)) continue;
      found.push({ key, size: localStorage.getItem(key).length, conversation });
    }
  } catch {
    // no storage, no conversations
  }
  return found.sort((a, b) => b.conversation.updated - a.conversation.updated);
}

// Newest first.
export function loadConversations() {
  return stored().map((entry) => entry.conversation);
}

export function loadConversation(id) {
  const conversation = read(PREFIX + id);
  return Array.isArray(conversation?.messages) ? conversation : null;
}

function makeRoom(characters, keep) {
  const entries = stored().filter((entry) => entry.conversation.id !== keep);
  let total = characters + entries.reduce((sum, entry) => sum + entry.size, 0);
  while (entries.length && (entries.length >= CONVERSATIONS_MAX || total > CHARACTERS_MAX)) {
    const oldest = entries.pop();
    localStorage.removeItem(oldest.key);
    total -= oldest.size;
  }
}

// False: it has no room, even alone.
export function saveConversation(conversation) {
  const text = JSON.stringify(conversation);
  if (text.length > CHARACTERS_MAX) return false; // it would drive out all others, for nothing
  try {
    makeRoom(text.length, conversation.id);
    localStorage.setItem(PREFIX + conversation.id, text);
    return true;
  } catch {
    return false;
  }
}

export function removeConversation(id) {
  try {
    localStorage.removeItem(PREFIX + id);
  } catch {
    // nothing was kept
  }
}

export function newConversation(kind, system) {
  const id = Array.from(crypto.getRandomValues(new Uint32Array(3)), (n) => n.toString(36)).join("");
  const now = Date.now();
  return { id, title: "", created: now, updated: now, kind, system, messages: [] };
}

// Of the first thing that was said.
export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const first = conversation.messages.find((message) => message.role === "user")?.content ?? "";
  const line = first.trim().split("\n")[0];
  if (line) return line.length > 60 ? `${line.slice(0, 59)}…` : line;
  return conversation.sessionId >= 0 ? `Session ${conversation.sessionId}` : "New chat";
}
