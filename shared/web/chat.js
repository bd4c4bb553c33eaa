// The page /chat: conversations beside, one of them in the middle, settings. What a message looks like is in
// chat_view.js, how an answer comes in turns.js, what is kept in store.js.
//
// A conversation has at most one answer on its way (runs); others may be looked at meanwhile. Only the conversation
// that is shown has views.

import { getJson, getKey, onKeyWanted, setKey } from "./api.js";
import { MessageView } from "./chat_view.js";
import { byId, el, formatCount, formatSeconds, showLinks } from "./dom.js";
import { askKey } from "./key_dialog.js";
import {
  loadConversation, loadConversations, loadSettings, newConversation, removeConversation, saveConversation,
  saveSettings, titleOf,
} from "./store.js";
import { beginAnew, branchOf, endSession, listSessions, rewindSession, runChat, runSession, stopTurn } from "./turns.js";

const FIELDS = ["system", "temperature", "top_p", "max_tokens", "seed", "extra"];
const MODELS_AGAIN_MS = 3000; // a fleet that serves none yet
const SAVE_EVERY_MS = 1000;
const NEAR_END_PX = 80;

const settings = loadSettings();
const runs = new Map(); // id of a conversation -> { conversation, message, controller, ended, model, savedAt }
let current = null; // the conversation that is shown
let views = []; // of its messages, in order
let models = [];

const say = (text) => { byId("status").textContent = text; };
const isNarrow = () => matchMedia("(max-width: 760px)").matches;

// ---- showing ----

function isNearEnd() {
  const scroll = byId("scroll");
  return scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR_END_PX;
}

function scrollToEnd() {
  const scroll = byId("scroll");
  scroll.scrollTop = scroll.scrollHeight;
}

function contextOf(at) {
  const run = runs.get(current.id);
  return {
    live: run?.message === current.messages[at], busy: Boolean(run), last: at === current.messages.length - 1,
    session: current.kind === "session",
  };
}

// Views follow the messages: those of messages that are gone go, new ones come, all are brought up to date.
function showThread() {
  const wasNearEnd = isNearEnd();
  const thread = byId("thread");
  let same = 0;
  while (same < views.length && views[same].message === current.messages[same]) same++;
  for (const view of views.splice(same)) view.root.remove();
  for (const message of current.messages.slice(same)) {
    const view = new MessageView(message, actions);
    views.push(view);
    thread.append(view.root);
  }
  views.forEach((view, at) => view.update(contextOf(at)));
  byId("empty").hidden = current.messages.length > 0 || current.unseen || current.forkOf >= 0;
  if (wasNearEnd) scrollToEnd();
}

function showControls() {
  const busy = runs.has(current.id);
  byId("stop").hidden = !busy;
  byId("send").hidden = busy;
  byId("thread").setAttribute("aria-busy", String(busy));
  const isSession = current.kind === "session";
  const badge = byId("badge");
  badge.hidden = !isSession;
  badge.textContent = current.sessionId >= 0 ? `Session ${current.sessionId}`
    : current.forkOf >= 0 ? `Fork of ${current.forkOf}` : "New session";
  const fixed = isSession && (current.sessionId >= 0 || current.forkOf >= 0);
  byId("system").disabled = fixed;
  byId("system-hint").hidden = !fixed;
  for (const radio of document.querySelectorAll("[name=kind]")) radio.checked = radio.value === current.kind;
  document.title = current.messages.length ? `${titleOf(current)} – Chat` : "Chat";
}

function describeSession(session) {
  return `${session.turns} turn${session.turns === 1 ? "" : "s"}, ${formatCount(session.history_tokens)} tokens`;
}

function showUnseen() {
  document.querySelector(".unseen")?.remove();
  if (!current.unseen && !(current.forkOf >= 0)) return;
  const text = current.forkOf >= 0 && !current.unseen
    ? `A fork of session ${current.forkOf}; it begins with your next message.`
    : `The server has ${current.unseen} of this ${current.forkOf >= 0 ? "fork" : "session"}. Their text is not in this browser.`;
  byId("thread").prepend(el("p", { class: "note unseen" }, text));
}

function showConversations() {
  const list = loadConversations();
  if (current.messages.length && !list.some(({ id }) => id === current.id)) list.unshift(current);
  byId("conversations").replaceChildren(...list.map((conversation) => {
    const title = titleOf(conversation);
    const busy = runs.has(conversation.id) && conversation.id !== current.id;
    return el("li", { class: conversation.id === current.id ? "current" : null },
      el("button", {
        class: "open", type: "button", title, "aria-current": conversation.id === current.id ? "true" : null,
        onclick: () => openConversation(conversation.id),
      }, el("span", {}, title), conversation.kind === "session" || busy
        ? el("small", {}, busy ? "Answering…" : `Session ${conversation.sessionId >= 0 ? conversation.sessionId : ""}`) : null),
      el("button", {
        class: "button plain small", type: "button", "aria-label": `Delete: ${title}`, title: "Delete",
        onclick: () => deleteConversation(conversation.id),
      }, "✕"));
  }));
}

function showAll() {
  showThread();
  showUnseen();
  showControls();
  showConversations();
}

// ---- conversations ----

function show(conversation) {
  current = conversation;
  for (const view of views) view.root.remove();
  views = [];
  byId("system").value = conversation.system ?? "";
  history.replaceState(null, "", conversation.messages.length ? `#${conversation.id}` : location.pathname);
  showAll();
  scrollToEnd();
  closeDrawers();
  if (!isNarrow()) byId("input").focus();
}

function openConversation(id) {
  const conversation = runs.get(id)?.conversation ?? loadConversation(id);
  if (conversation) show(conversation);
}

function startNew() {
  show(newConversation(current?.kind ?? "chat", settings.system));
}

function deleteConversation(id) {
  runs.get(id)?.controller.abort();
  removeConversation(id);
  if (id === current.id) startNew();
  else showConversations();
}

function save(conversation) {
  conversation.updated = Date.now();
  if (!saveConversation(conversation)) say("This browser has no room left: the conversation is not kept.");
}

// ---- asking ----

function errorOf(error) {
  return { text: error.message, code: error.code ?? "" };
}

// Drawn once a frame at most, saved once a second.
function onChange(run) {
  run.drawing ??= requestAnimationFrame(() => {
    run.drawing = undefined;
    if (current !== run.conversation) return;
    showThread();
    if (current.kind === "session") showControls(); // it has got its number
  });
  if (Date.now() - run.savedAt > SAVE_EVERY_MS) {
    run.savedAt = Date.now();
    save(run.conversation);
  }
}

function announce(message) {
  if (message.error) say(message.error.text);
  else say(message.stats ? `Answered: ${message.stats.tokens} tokens.` : "Stopped.");
}

async function answer(conversation) {
  if (runs.has(conversation.id)) return;
  const message = { role: "assistant", content: "" };
  const run = {
    conversation, message, controller: new AbortController(), model: settings.model, savedAt: Date.now(),
  };
  conversation.messages.push(message);
  runs.set(conversation.id, run);
  save(conversation);
  history.replaceState(null, "", `#${conversation.id}`);
  say("Answering.");
  showAll();
  scrollToEnd();
  const ask = conversation.kind === "session" ? runSession : runChat;
  run.ended = ask(conversation, message, { ...settings }, run.controller.signal, () => onChange(run))
    .catch((error) => {
      if (error.name === "AbortError") message.finish = "stopped";
      else message.error = errorOf(error);
    });
  await run.ended;
  if (run.stopped && message.finish === "length") message.finish = "stopped";
  runs.delete(conversation.id);
  if (run.drawing) cancelAnimationFrame(run.drawing);
  if (loadConversation(conversation.id)) save(conversation); // else it was deleted meanwhile
  announce(message);
  if (current === conversation) {
    showThread();
    showControls();
  }
  showConversations();
  if (byId("sessions").open) showSessions();
}

function send(text) {
  if (!text.trim() || runs.has(current.id)) return false;
  if (!settings.model) {
    say("There is no model to ask.");
    loadModels();
    return false;
  }
  current.messages.push({ role: "user", content: text });
  answer(current);
  return true;
}

function stop() {
  const run = runs.get(current.id);
  if (!run) return;
  run.stopped = true;
  stopTurn(run);
}

// Messages from `at` on are taken back, from the server's history too.
function cut(at) {
  if (current.kind === "session") rewindSession(current, at);
  else current.messages.length = at;
}

const actions = {
  edit(message, text) {
    cut(current.messages.indexOf(message));
    send(text);
  },
  regenerate(message) {
    const at = current.messages.indexOf(message) - 1;
    const text = current.messages[at].content;
    cut(at);
    send(text);
  },
  retry(message) {
    actions.regenerate(message);
  },
  beginAnew(message) {
    beginAnew(current);
    actions.regenerate(message);
  },
  rewind(message) {
    cut(current.messages.indexOf(message) + 1);
    save(current);
    showAll();
    byId("input").focus();
  },
  branch(message) {
    const branch = branchOf(current, current.messages.indexOf(message) + 1, newConversation(current.kind, current.system));
    save(branch);
    show(branch);
  },
};

// ---- the server ----

async function loadModels() {
  const select = byId("model");
  try {
    models = (await getJson("v1/models")).data.map((model) => model.id);
  } catch (error) {
    models = [];
    select.replaceChildren(el("option", { value: "" }, "No model"));
    say(error.message);
    return;
  }
  if (!models.includes(settings.model)) settings.model = models[0] ?? "";
  select.replaceChildren(...models.map((id) => el("option", { value: id, selected: id === settings.model }, id)));
  if (models.length) return;
  select.append(el("option", { value: "" }, "No model yet"));
  setTimeout(loadModels, MODELS_AGAIN_MS);
}

function sessionItem(session) {
  const known = loadConversations().find((conversation) => conversation.sessionId === session.session_id);
  const title = known ? titleOf(known) : `Session ${session.session_id}`;
  const age = formatSeconds(Math.max(0, Date.now() / 1000 - session.last_used));
  const open = () => {
    if (known) {
      openConversation(known.id);
      return;
    }
    const conversation = newConversation("session", "");
    conversation.sessionId = session.session_id;
    conversation.unseen = describeSession(session);
    save(conversation);
    show(conversation);
  };
  const fork = () => {
    const conversation = newConversation("session", known?.system ?? "");
    conversation.sessionId = -1;
    conversation.forkOf = session.session_id;
    conversation.title = `Fork of: ${title}`.slice(0, 60);
    if (known) conversation.messages = structuredClone(known.messages);
    if (!known || known.unseen) conversation.unseen = describeSession(session);
    save(conversation);
    show(conversation);
  };
  const end = async () => {
    await endSession(session.session_id).catch((error) => say(error.message));
    showSessions();
  };
  return el("li", {},
    el("button", { class: "open", type: "button", title, onclick: open },
      el("span", {}, title), el("small", {}, `${describeSession(session)}, ${session.state}, ${age} ago`)),
    el("button", { class: "button plain small", type: "button", title: "Fork", "aria-label": `Fork: ${title}`, onclick: fork }, "Fork"),
    el("button", { class: "button plain small", type: "button", title: "End on the server", "aria-label": `End: ${title}`, onclick: end }, "End"));
}

async function showSessions() {
  const hint = byId("sessions-hint");
  try {
    const { sessions, complete } = await listSessions();
    hint.textContent = !complete ? "Some agents did not answer: the list is not complete."
      : sessions.length ? "" : "None.";
    byId("session-list").replaceChildren(...sessions.sort((a, b) => b.last_used - a.last_used).map(sessionItem));
  } catch (error) {
    hint.textContent = error.message;
    byId("session-list").replaceChildren();
  }
  hint.hidden = !hint.textContent;
}

// ---- controls ----

function setDrawer(name, open) {
  const panel = byId(name);
  panel.classList.toggle("open", open);
  byId(`${name}-open`).setAttribute("aria-expanded", String(open));
  byId("shade").hidden = !open;
  if (name === "settings") panel.hidden = !open;
  if (open) panel.querySelector("button, input, textarea")?.focus();
}

function closeDrawers() {
  setDrawer("side", false);
  if (isNarrow()) setDrawer("settings", false);
}

function fitInput() {
  const input = byId("input");
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
}

function submit() {
  const input = byId("input");
  if (!send(input.value)) return;
  input.value = "";
  fitInput();
}

function onKey(event) {
  if (event.key !== "Escape" || event.defaultPrevented || document.querySelector("dialog[open]")) return;
  if (runs.has(current.id)) stop();
  else if (isNarrow()) closeDrawers();
}

function connect() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  byId("input").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
  byId("input").addEventListener("input", fitInput);
  byId("stop").addEventListener("click", stop);
  byId("new").addEventListener("click", startNew);
  byId("side-open").addEventListener("click", () => setDrawer("side", true));
  byId("side-close").addEventListener("click", () => setDrawer("side", false));
  byId("settings-open").addEventListener("click", () => setDrawer("settings", byId("settings").hidden));
  byId("settings-close").addEventListener("click", () => {
    setDrawer("settings", false);
    byId("settings-open").focus();
  });
  byId("shade").addEventListener("click", closeDrawers);
  byId("to-end").addEventListener("click", scrollToEnd);
  byId("scroll").addEventListener("scroll", () => { byId("to-end").hidden = isNearEnd(); }, { passive: true });
  byId("sessions").addEventListener("toggle", () => { if (byId("sessions").open) showSessions(); });
  byId("model").addEventListener("change", (event) => {
    settings.model = event.target.value;
    saveSettings(settings);
  });
  for (const radio of document.querySelectorAll("[name=kind]")) {
    radio.addEventListener("change", () => {
      current.kind = radio.value;
      if (current.kind === "session") current.sessionId = -1;
      showControls();
    });
  }
  for (const name of FIELDS) {
    byId(name).value = settings[name];
    byId(name).addEventListener("change", (event) => {
      settings[name] = event.target.value;
      saveSettings(settings);
      if (name !== "system") return;
      current.system = settings.system;
      if (current.messages.length) save(current);
    });
  }
  byId("key").value = getKey();
  byId("key").addEventListener("change", (event) => {
    setKey(event.target.value.trim());
    loadModels();
  });
  byId("key-form").addEventListener("submit", (event) => event.preventDefault());
  byId("clear").addEventListener("click", () => {
    if (!confirm("Delete all conversations of this browser?")) return;
    for (const run of runs.values()) run.controller.abort();
    for (const { id } of loadConversations()) removeConversation(id);
    startNew();
  });
  document.addEventListener("keydown", onKey);
  window.addEventListener("storage", showConversations); // another tab's
  window.addEventListener("hashchange", () => openConversation(location.hash.slice(1)));
}

onKeyWanted(async (why) => {
  const given = await askKey(why);
  byId("key").value = getKey();
  return given;
});
connect();
const wanted = location.hash.slice(1);
startNew();
if (wanted) openConversation(wanted);
await loadModels();
showLinks();
