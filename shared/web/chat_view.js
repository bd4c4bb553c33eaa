// How a message looks, and what can be done with it.

import { copyText, el, flash, formatCount, formatSeconds } from "./dom.js";
import { Rendered } from "./markdown.js";

function prettyArguments(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // not complete yet
  }
}

function statsText(stats) {
  if (!stats) return "";
  const parts = [`${formatCount(stats.tokens)} token${stats.tokens === 1 ? "" : "s"}`];
  if (stats.per_s) parts.push(`${stats.per_s.toFixed(1)} tokens/s`);
  if (stats.first_s !== undefined) parts.push(`first after ${formatSeconds(stats.first_s)}`);
  if (stats.cached) parts.push(`${formatCount(stats.cached)} of ${formatCount(stats.prompt)} prompt tokens cached`);
  else if (stats.prompt) parts.push(`${formatCount(stats.prompt)} prompt tokens`);
  return parts.join(" · ");
}

const FINISHES = {
  length: "Cut at the length limit.", content_filter: "Withheld by a filter.", stopped: "Stopped.",
};

// actions: { edit(message, text), regenerate(message), branch(message), rewind(message), retry(message),
// beginAnew(message) }
export class MessageView {
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.body = el("div", { class: "body" });
    this.bar = el("div", { class: "bar" });
    this.root = el("article", { class: `message ${message.role}` },
      el("h3", { class: "visually-hidden" }, message.role === "user" ? "You" : "Answer"));
    if (message.role === "assistant") {
      this.thought = el("div", { class: "body" });
      this.thinking = el("summary", {}, "Thinking…");
      this.reasoning = el("details", { class: "reasoning", hidden: true }, this.thinking, this.thought);
      this.tools = el("div", { class: "tools" });
      this.notes = el("div", { class: "notes" });
      this.text = new Rendered(this.body);
      this.thoughtText = new Rendered(this.thought);
      this.root.append(this.reasoning, this.body, this.tools, this.notes, this.bar);
    } else {
      this.root.append(this.body, this.bar);
    }
  }

  // context: { live: it still grows, last: it is the last one, session: of the server's }
  update(context) {
    const message = this.message;
    this.root.classList.toggle("live", context.live);
    if (message.role === "user") {
      if (!this.editing) this.body.textContent = message.content;
    } else {
      this.text.set(message.content);
      this.updateReasoning(context.live);
      this.updateTools();
      this.updateNotes(context);
    }
    // Buttons that are there stay: focus would be lost with them.
    const state = JSON.stringify([context, this.editing, Boolean(message.error), message.stats, message.content !== ""]);
    if (state === this.barState) return;
    this.barState = state;
    this.bar.replaceChildren(...this.buttons(context));
  }

  updateReasoning(live) {
    const { reasoning, content, tools } = this.message;
    this.reasoning.hidden = !reasoning;
    if (!reasoning) return;
    const thinks = live && !content && !tools;
    if (this.thinks === undefined || this.thinks !== thinks) this.reasoning.open = thinks;
    this.thinks = thinks;
    this.thinking.textContent = thinks ? "Thinking…" : "Reasoning";
    this.thoughtText.set(reasoning);
  }

  updateTools() {
    const tools = this.message.tools ?? [];
    this.tools.replaceChildren(...tools.filter(Boolean).map((tool) =>
      el("figure", { class: "code tool" },
        el("figcaption", {}, el("span", {}, "Tool call: ", el("b", {}, tool.name || "…"))),
        el("pre", { tabindex: "0" }, el("code", {}, prettyArguments(tool.arguments))))));
  }

  updateNotes(context) {
    const { message } = this;
    const notes = (message.notes ?? []).map((text) => el("p", { class: "note" }, text));
    if (message.error) {
      const buttons = [this.button("Try again", () => this.actions.retry(message), "")];
      if (message.error.code === "session_lost") {
        buttons.push(this.button("Begin anew with these messages", () => this.actions.beginAnew(message), ""));
      }
      notes.push(el("div", { class: "note error", role: "alert" },
        el("p", {}, message.error.text), context.live ? null : el("p", { class: "buttons" }, buttons)));
    } else if (FINISHES[message.finish]) {
      notes.push(el("p", { class: "note" }, FINISHES[message.finish]));
    }
    const state = notes.map((note) => note.textContent).join("\n");
    if (state === this.notesState) return;
    this.notesState = state;
    this.notes.replaceChildren(...notes);
  }

  button(text, action, style = "plain small", title = null) {
    return el("button", { class: `button ${style}`, type: "button", title, onclick: action }, text);
  }

  buttons({ live, last, session, busy }) {
    const { message, actions } = this;
    if (live || this.editing) return [];
    const copy = this.button("Copy", async () => flash(copy, (await copyText(message.content)) ? "Copied" : "Not copied"));
    if (message.role === "user") return [copy, busy ? null : this.button("Edit", () => this.edit())].filter(Boolean);
    const buttons = message.content ? [copy] : [];
    if (!busy) {
      if (last && !message.error) buttons.push(this.button("Regenerate", () => actions.regenerate(message)));
      if (!message.error) {
        buttons.push(this.button("Branch", () => actions.branch(message), "plain small",
          session ? "Fork the session behind this answer" : "Go on from here in a new chat"));
      }
      if (!last) {
        buttons.push(this.button("Rewind", () => actions.rewind(message), "plain small", "Forget what is behind this answer"));
      }
    }
    const stats = statsText(message.stats);
    if (stats) buttons.push(el("span", { class: "stats" }, stats));
    return buttons;
  }

  edit() {
    const { message } = this;
    const area = el("textarea", { "aria-label": "Edit the message", rows: "3" });
    area.value = message.content;
    const close = (text) => {
      this.editing = false;
      this.barState = null;
      if (text === undefined || !text.trim()) {
        this.update({ live: false, last: false });
        this.bar.querySelector("button:last-of-type")?.focus();
      } else {
        this.actions.edit(message, text);
      }
    };
    area.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      } else if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        close(area.value);
      }
    });
    this.editing = true;
    this.body.replaceChildren(el("div", { class: "editor" }, area, el("div", { class: "buttons" },
      this.button("Send", () => close(area.value), "primary"), this.button("Cancel", () => close(), ""))));
    this.bar.replaceChildren();
    area.style.height = `${Math.min(area.scrollHeight + 4, 400)}px`;
    area.focus();
  }
}
