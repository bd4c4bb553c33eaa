// Dark or light, before anything is drawn: a classic script in the head, as modules run too late for that.
// Without a choice the page follows the system; the button "theme" goes system -> light -> dark.
"use strict";
(() => {
  const KEY = "lm-theme";
  const NAMES = ["system", "light", "dark"];
  const SIGNS = { system: "◐", light: "☀", dark: "☾" };

  function chosen() {
    try {
      const name = localStorage.getItem(KEY);
      return NAMES.includes(name) ? name : "system";
    } catch {
      return "system"; // storage is closed to this page
    }
  }

  function apply(name) {
    if (name === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    const button = document.getElementById("theme");
    if (!button) return;
    button.textContent = SIGNS[name];
    button.setAttribute("aria-label", `Colours: ${name}`);
    button.title = `Colours: ${name}`;
  }

  apply(chosen());
  document.addEventListener("DOMContentLoaded", () => {
    apply(chosen());
    document.getElementById("theme")?.addEventListener("click", () => {
      const next = NAMES[(NAMES.indexOf(chosen()) + 1) % NAMES.length];
      try {
        localStorage.setItem(KEY, next);
      } catch {
        // only for this view, then
      }
      apply(next);
      document.dispatchEvent(new Event("themechange"));
    });
  });
})();
