// The gallery: cards of the proteins that were searched for, some at a time, because there may be thousands.
"use strict";

(() => {
  const AT_ONCE = 60;
  const rows = JSON.parse(document.getElementById("data").textContent);
  const element = (id) => document.getElementById(id);
  let chosen = rows;
  let shown = 0;

  const orders = {
    given: null,
    name: (a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0),
    confidence: (a, b) => b.confidence - a.confidence,
    doubtful: (a, b) => a.confidence - b.confidence,
    length: (a, b) => b.length - a.length,
  };

  function line(kind, text) {
    const made = document.createElement(kind);
    made.textContent = text;
    return made;
  }

  function card(row) {
    const link = document.createElement("a");
    link.href = row.page;
    // Our own drawing; its one text, the name, is escaped in it.
    link.innerHTML = row.drawing;
    const clusters = row.clusters === 1 ? "1 cluster" : `${row.clusters} clusters`;
    link.append(
      line("strong", row.name),
      line("small", `${row.label}, ${row.confidence.toFixed(2)}`),
      line("small", `${row.length} residues, ${clusters} (${Math.round(100 * row.coverage)}%)`),
    );
    const item = document.createElement("li");
    item.append(link);
    return item;
  }

  function more() {
    element("cards").append(...chosen.slice(shown, shown + AT_ONCE).map(card));
    shown = Math.min(shown + AT_ONCE, chosen.length);
    element("more").hidden = shown === chosen.length;
  }

  function choose() {
    const words = element("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    const label = element("label").value;
    chosen = rows.filter((row) => {
      const text = `${row.name} ${row.label}`.toLowerCase();
      return (!label || row.label === label) && words.every((word) => text.includes(word));
    });
    const order = orders[element("order").value];
    if (order) chosen.sort(order);
    element("found").textContent = `${chosen.length} of ${rows.length} proteins`;
    element("cards").replaceChildren();
    shown = 0;
    more();
  }

  const counts = new Map();
  for (const row of rows) counts.set(row.label, (counts.get(row.label) || 0) + 1);
  for (const [label, count] of [...counts].sort()) {
    const option = line("option", `${label} (${count})`);
    option.value = label;
    element("label").append(option);
  }
  element("words").addEventListener("input", choose);
  element("label").addEventListener("change", choose);
  element("order").addEventListener("change", choose);
  element("more").addEventListener("click", more);
  document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  choose();
})();
