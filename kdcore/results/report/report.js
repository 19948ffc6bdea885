"use strict";

// The reader's choice of theme; without one, the page follows the system.
(() => {
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const stored = (() => { try { return localStorage.getItem("kdcore-theme"); } catch { return null; } })();
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => button.setAttribute("aria-pressed", String(isDark()));
  if (stored === "dark" || stored === "light") root.dataset.theme = stored;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("kdcore-theme", root.dataset.theme); } catch { /* nothing is kept here */ }
    show();
  });
  system.addEventListener("change", show);
  button.hidden = false;
  show();
})();

// Tables: a button in each head sorts by its column, ascending, then descending; what is absent stays last.
(() => {
  const texts = new Intl.Collator("en", { numeric: true });
  const compare = (a, b) => {
    if ("key" in a.dataset && "key" in b.dataset) return Number(a.dataset.key) - Number(b.dataset.key);
    return texts.compare(a.textContent, b.textContent);
  };
  const sort = (table, head) => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const column = head.cellIndex;
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((one, other) => {
      const [a, b] = [one.cells[column], other.cells[column]];
      const absent = ("absent" in a.dataset) - ("absent" in b.dataset);
      return absent || sign * compare(a, b);
    });
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    body.append(...rows);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const head of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sort(table, head));
    }
  }
})();

// Long tables: show only the rows that hold every word typed.
(() => {
  for (const table of document.querySelectorAll("table.sortable")) {
    if (table.tBodies[0].rows.length < 12) continue;
    const label = document.createElement("label");
    const input = document.createElement("input");
    const found = document.createElement("output");
    label.className = "filter";
    input.type = "search";
    input.placeholder = "words, e.g. a pair or a method";
    label.append("Show rows with", input, found);
    table.parentElement.before(label);
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of table.tBodies[0].rows) {
        const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += !row.hidden;
      }
      found.value = words.length ? `${shown} of ${table.tBodies[0].rows.length}` : "";
    });
  }
})();

// Printed, everything is open.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details.pair")) details.open = true;
});
