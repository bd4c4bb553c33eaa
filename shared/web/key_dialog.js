// Asks for an API key when the server wants one. One dialog at a time; all who wait for it get its answer.

import { setKey } from "./api.js";
import { el } from "./dom.js";

let asking = null;

function open(why) {
  const input = el("input", { type: "password", autocomplete: "off", id: "key-input" });
  const dialog = el("dialog", { class: "dialog", "aria-labelledby": "key-title", id: "key-dialog" },
    el("form", { method: "dialog" },
      el("h2", { id: "key-title" }, "API key"),
      el("p", { id: "key-why" }, why),
      el("label", { class: "field" }, "Key", input),
      el("p", { class: "hint" }, "Kept for this tab only, and sent to this server only."),
      el("div", { class: "buttons" },
        el("button", { class: "button primary", value: "use" }, "Use this key"),
        el("button", { class: "button", value: "", type: "submit" }, "Cancel"))));
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const key = input.value.trim();
      const given = dialog.returnValue === "use" && key !== "";
      if (given) setKey(key);
      dialog.remove();
      asking = null;
      resolve(given);
    });
  });
}

// Whether there is another key to try now.
export function askKey(why) {
  asking ??= open(why);
  return asking;
}
