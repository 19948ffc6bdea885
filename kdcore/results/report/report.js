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
    const search = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      const rows = [...table.tBodies[0].rows].filter((row) => !row.classList.contains("out"));
      let shown = 0;
      for (const row of rows) {
        const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += !row.hidden;
      }
      found.value = words.length ? `${shown} of ${rows.length}` : "";
    };
    input.addEventListener("input", search);
    document.addEventListener("chosen", search);
  }
})();

// Filters: of the rows of the matrix some are chosen, and what shows none of them is left out. The choice stands in the
// address behind the section: #rows?kind=feature&pair=resnet56-resnet20.
(() => {
  const section = document.getElementById("filters");
  const [form, details, output] = ["form", "details", "output"].map((tag) => section.querySelector(tag));
  const link = document.querySelector("#to-filters a");
  const rows = JSON.parse(form.dataset.rows);
  const names = new Set(rows.flatMap((row) => row.methods));
  const parts = [...document.querySelectorAll("[data-of]:not(td)")].map((part) => [part, part.dataset.of.split(" ")]);
  const leave = (part, isOut) => part.classList.toggle("out", isOut);

  // A word that is a method's name finds that method, and sums with it; another one all names that hold it.
  const chosen = () => {
    const values = new FormData(form);
    const words = values.get("method").toLowerCase().split(/[\s,]+/).filter(Boolean);
    const isNamed = (row) => words.some((word) => row.methods.some((name) => (
      names.has(word) ? name === word : name.includes(word))));
    const facets = [...new Set(values.keys())].filter((name) => name !== "method");
    return rows.map((row) => (
      (!words.length || isNamed(row)) && facets.every((name) => values.getAll(name).includes(row[name]))));
  };

  const showMap = (map, shown) => {
    const columns = new Set();
    for (const line of map.querySelectorAll("tbody tr:not(.kind)")) {
      const held = [...line.cells].filter((cell) => shown[cell.dataset.of]);
      for (const cell of held) columns.add(cell.cellIndex);
      leave(line, !held.length);
    }
    for (const cell of map.querySelectorAll("tr:not(.kind) > *")) {
      leave(cell, cell.cellIndex > 0 && !columns.has(cell.cellIndex));
    }
    for (const body of map.querySelectorAll("tbody")) leave(body, !body.querySelector("tr:not(.kind, .out)"));
    leave(map, !columns.size);
  };

  const show = () => {
    const shown = chosen();
    const count = shown.filter(Boolean).length;
    for (const [part, of] of parts) leave(part, !of.some((number) => shown[number]));
    for (const map of document.querySelectorAll(".map")) showMap(map, shown);
    for (const boxes of [".chart", ".group, .scatter"]) {
      for (const box of document.querySelectorAll(boxes)) {
        if (box.querySelector("[data-of]")) leave(box, !box.querySelector("[data-of]:not(.out)"));
      }
    }
    for (const figures of ["#curves", "#calibration"]) {
      const pairs = [...document.querySelectorAll(`${figures} .pair:not(.out)`)];
      if (pairs.length && !pairs.some((pair) => pair.open)) pairs[0].open = true;
    }
    const isAll = count === rows.length;
    output.value = isAll ? "" : `${count} of ${rows.length} rows are shown.`;
    link.textContent = isAll ? "Filter" : `Filter: ${count} of ${rows.length} rows`;
    document.dispatchEvent(new Event("chosen"));
  };

  const address = () => location.hash.slice(1).split("?");
  const keep = () => {
    const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value.trim()));
    history.replaceState(null, "", `#${address()[0]}${query.size ? `?${query}` : ""}`);
  };
  const read = () => {
    const [at, query] = address();
    if (query === undefined) return keep(); // a jump inside the page changes nothing
    const values = new URLSearchParams(query);
    for (const field of form.elements) {
      if (field.type === "checkbox") field.checked = values.getAll(field.name).includes(field.value);
      if (field.type === "search") field.value = values.get(field.name) ?? "";
    }
    show();
    document.getElementById(at)?.scrollIntoView();
  };
  const changed = () => { show(); keep(); };

  form.addEventListener("input", changed);
  form.addEventListener("reset", () => setTimeout(changed));
  form.addEventListener("submit", (event) => event.preventDefault());
  link.addEventListener("click", () => { details.open = true; });
  addEventListener("hashchange", read);
  section.hidden = link.parentElement.hidden = false;
  if (location.hash.includes("?")) { details.open = true; read(); }
})();

// Printed, everything is open.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details.pair, #overview details")) details.open = true;
});
