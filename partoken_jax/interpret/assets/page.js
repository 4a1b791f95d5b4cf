// The page of a protein: structure, sequence and table of clusters show one selection and one thing pointed at.
"use strict";

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const element = (id) => document.getElementById(id);
  const length = data.sequence.length;
  const members = new Map(data.clusters.map((cluster) => [cluster.rank, cluster.residues]));
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let scheme = data.schemes[0];
  let selected = new Set();
  let pointed = new Set(); // residues under the pointer, or of the row under it
  let viewer = null;

  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const rgb = (colour) => [1, 3, 5].map((k) => parseInt(colour.slice(k, k + 2), 16));
  const colourOf = (i) => (scheme.of[i] < 0 ? style("--none") : scheme.colours[scheme.of[i]]);
  const inkOn = (colour) => {
    const [r, g, b] = rgb(colour);
    return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#111" : "#fff";
  };

  function described(i) {
    const rank = data.rank[i];
    const cluster = data.clusters[rank - 1];
    const parts = [`${data.types[i]} ${data.numbers[i]}`];
    if (!rank) parts.push("in no cluster");
    else {
      parts.push(`cluster ${rank}`);
      if (cluster.token !== null) parts.push(`token ${cluster.token}`);
      parts.push(`importance ${cluster.importance.toFixed(3)}`);
    }
    if (data.plddt) parts.push(`pLDDT ${data.plddt[i].toFixed(0)}`);
    if (!data.ca[i]) parts.push("not in the structure");
    return parts.join(", ");
  }

  // What is shown anew after the selection, the scheme, the pointer or the theme has changed.
  function show() {
    const behind = rgb(style("--stage"));
    const light = dark.matches ? 255 : 0;
    const colours = [];
    for (let i = 0; i < length; i++) {
      let colour = rgb(colourOf(i));
      if (pointed.has(i)) colour = colour.map((x) => Math.round(x * 0.55 + light * 0.45));
      const dim = selected.size > 0 && !selected.has(i) && !pointed.has(i);
      colours.push([...colour, dim ? 60 : 255]);
    }
    if (viewer) viewer.paint(colours, behind.map((x) => x / 255));
    for (const cell of element("sequence").querySelectorAll("[data-i]")) {
      const i = Number(cell.dataset.i);
      cell.classList.toggle("pointed", pointed.has(i));
      cell.setAttribute("aria-selected", selected.has(i));
    }
    element("sequence").classList.toggle("chosen", selected.size > 0);
    for (const row of document.querySelectorAll("tr[data-rank]")) {
      const residues = members.get(Number(row.dataset.rank));
      const all = residues.length > 0 && residues.every((i) => selected.has(i));
      row.classList.toggle("selected", all);
      row.classList.toggle("pointed", residues.some((i) => pointed.has(i)));
      row.querySelector("button").setAttribute("aria-pressed", all);
    }
    element("clear").disabled = selected.size === 0;
    element("said").textContent = spoken();
  }

  function spoken() {
    if (pointed.size === 1) return described([...pointed][0]);
    if (selected.size === 1) return `Selected: ${described([...selected][0])}`;
    if (selected.size > 1) {
      const numbers = [...selected].sort((a, b) => a - b).map((i) => data.sequence[i] + data.numbers[i]);
      const more = numbers.length > 24 ? ` and ${numbers.length - 24} more` : "";
      return `Selected: ${selected.size} residues, ${numbers.slice(0, 24).join(" ")}${more}`;
    }
    return "Nothing is selected. Choose a residue or a cluster.";
  }

  const same = (a, b) => a.size === b.size && [...a].every((i) => b.has(i));

  function select(residues, event) {
    const chosen = new Set(residues);
    if (event && (event.ctrlKey || event.metaKey)) {
      const there = residues.every((i) => selected.has(i));
      for (const i of residues) there ? selected.delete(i) : selected.add(i);
    } else selected = same(chosen, selected) ? new Set() : chosen;
    show();
  }

  function point(residues) {
    const next = new Set(residues);
    if (same(next, pointed)) return;
    pointed = next;
    show();
  }

  function paintSequence() {
    for (const cell of element("sequence").querySelectorAll("[data-i]")) {
      const colour = colourOf(Number(cell.dataset.i));
      cell.style.setProperty("--c", colour);
      cell.style.color = scheme.of[cell.dataset.i] < 0 ? "" : inkOn(colour);
      cell.classList.toggle("plain", scheme.of[cell.dataset.i] < 0);
    }
  }

  // Sequence: groups of ten under the number of their first residue; one cell at a time takes the tabulator.
  function buildSequence() {
    const box = element("sequence");
    let group = null;
    for (let i = 0; i < length; i++) {
      if (i % 10 === 0) {
        group = document.createElement("span");
        group.className = "ten";
        group.setAttribute("role", "presentation");
        group.dataset.number = data.numbers[i];
        box.append(group);
      }
      const cell = document.createElement("span");
      cell.setAttribute("role", "option");
      cell.setAttribute("aria-label", described(i));
      cell.dataset.i = i;
      cell.tabIndex = i === 0 ? 0 : -1;
      cell.textContent = data.sequence[i];
      if (!data.ca[i]) cell.classList.add("missing");
      group.append(cell);
    }
    const cellOf = (event) => event.target.closest("[data-i]");
    let anchor = 0;
    const go = (cell) => {
      box.querySelector("[tabindex='0']").tabIndex = -1;
      cell.tabIndex = 0;
      cell.focus();
    };
    const choose = (cell, event) => {
      const i = Number(cell.dataset.i);
      if (event.shiftKey) {
        const [from, to] = [Math.min(anchor, i), Math.max(anchor, i)];
        selected = new Set(Array.from({ length: to - from + 1 }, (_, k) => from + k));
        return show();
      }
      anchor = i;
      select([i], event);
    };
    box.addEventListener("click", (event) => {
      const cell = cellOf(event);
      if (!cell) return;
      go(cell);
      choose(cell, event);
    });
    box.addEventListener("pointerover", (event) => cellOf(event) && point([Number(cellOf(event).dataset.i)]));
    box.addEventListener("pointerleave", () => point([]));
    box.addEventListener("focusin", (event) => cellOf(event) && point([Number(cellOf(event).dataset.i)]));
    box.addEventListener("focusout", () => point([]));
    box.addEventListener("keydown", (event) => {
      const cell = cellOf(event);
      if (!cell) return;
      const i = Number(cell.dataset.i);
      const to = { ArrowLeft: i - 1, ArrowRight: i + 1, ArrowUp: i - 10, ArrowDown: i + 10, Home: 0, End: length - 1 };
      if (event.key in to) {
        event.preventDefault();
        const next = Math.min(Math.max(to[event.key], 0), length - 1);
        go(box.querySelector(`[data-i='${next}']`));
        if (event.shiftKey) choose(document.activeElement, event);
      } else if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        choose(cell, event);
      }
    });
  }

  function buildTable() {
    for (const row of document.querySelectorAll("tr[data-rank]")) {
      const residues = members.get(Number(row.dataset.rank));
      row.addEventListener("click", (event) => select(residues, event));
      row.addEventListener("pointerenter", () => point(residues));
      row.addEventListener("pointerleave", () => point([]));
      row.addEventListener("focusin", () => point(residues));
      row.addEventListener("focusout", () => point([]));
    }
  }

  function buildSchemes() {
    for (const input of document.querySelectorAll("input[name='scheme']")) {
      input.addEventListener("change", () => recolour(input.value));
    }
    recolour(data.schemes[0].id);
  }

  function recolour(id) {
    scheme = data.schemes.find((one) => one.id === id);
    const list = element("legend");
    list.replaceChildren();
    for (const [colour, label] of scheme.legend) {
      const item = document.createElement("li");
      const mark = document.createElement("span");
      mark.className = "mark";
      mark.style.setProperty("--c", colour || "var(--none)");
      item.append(mark, label);
      list.append(item);
    }
    paintSequence();
    show();
  }

  function buildViewer() {
    const canvas = element("structure");
    const mesh = window.partoken.ribbon(data.ca, data.o, data.structure);
    const hover = (i) => {
      canvas.style.cursor = i >= 0 ? "pointer" : "grab";
      point(i >= 0 ? [i] : []);
    };
    const click = (i, event) => {
      if (i < 0) return select([], event);
      const cell = element("sequence").querySelector(`[data-i='${i}']`);
      // Within the track alone: the page stays where it is, or the pointer would be over something else.
      element("sequence").scrollTop = cell.parentElement.offsetTop - element("sequence").clientHeight / 2;
      select([i], event);
    };
    viewer = window.partoken.viewer(canvas, mesh, length, hover, click);
    if (!viewer) {
      element("flat").hidden = false;
      canvas.hidden = true;
      return;
    }
    element("reset").addEventListener("click", viewer.reset);
    element("nearer").addEventListener("click", () => viewer.zoom(1.25));
    element("farther").addEventListener("click", () => viewer.zoom(0.8));
  }

  buildSequence();
  buildTable();
  buildViewer();
  buildSchemes();
  element("clear").addEventListener("click", () => select([]));
  document.addEventListener("keydown", (event) => event.key === "Escape" && select([]));
  const named = /^#cluster-(\d+)$/.exec(location.hash); // as the page of the codebook links
  if (named && members.has(Number(named[1]))) select(members.get(Number(named[1])));
  dark.addEventListener("change", () => {
    paintSequence();
    show();
  });
})();
