"use strict";
(() => {
  // Tables: a header's button sorts its column; what has no number comes last either way.
  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    return cell.classList.contains("number") ? null : cell.textContent;
  };
  const compare = (a, b, sign) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const headers = [...table.tHead.rows[0].cells];
    headers.forEach((header, column) => header.querySelector("button").addEventListener("click", () => {
      const ascending = header.getAttribute("aria-sort") !== "ascending";
      headers.forEach(other => other.setAttribute("aria-sort", "none"));
      header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].map(row => [key(row, column), row]);
      rows.sort(([a], [b]) => compare(a, b, ascending ? 1 : -1));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    }));
  }

  // Figures: a spot shows the record of its experiment.
  const tip = document.getElementById("tip");
  const hide = () => {
    tip.hidden = true;
    document.querySelectorAll(".spot.same").forEach(spot => spot.classList.remove("same"));
  };
  const show = target => {
    hide();
    const card = document.getElementById(`record-${target.dataset.row}`);
    tip.replaceChildren(...[...card.childNodes].map(node => node.cloneNode(true)));
    tip.hidden = false;
    document.querySelectorAll(`.spot[data-row="${target.dataset.row}"]`).forEach(spot => spot.classList.add("same"));
    const box = target.getBoundingClientRect();
    const wide = box.width > 200;
    const left = wide ? innerWidth / 2 : box.right + 12;
    const fits = left + tip.offsetWidth < innerWidth - 8;
    tip.style.left = `${Math.max(8, fits ? left : box.left - tip.offsetWidth - 12)}px`;
    const top = wide ? box.bottom + 8 : box.top - 20;
    tip.style.top = `${Math.max(8, Math.min(top, innerHeight - tip.offsetHeight - 8))}px`;
  };
  for (const target of document.querySelectorAll(".spot, .ref")) {
    target.addEventListener("pointerenter", () => show(target));
    target.addEventListener("pointerleave", hide);
    target.addEventListener("focus", () => show(target));
    target.addEventListener("blur", hide);
  }
  for (const figure of document.querySelectorAll("figure")) {
    const spots = [...figure.querySelectorAll(".spot")];
    if (spots.length) spots[0].tabIndex = 0;
    spots.forEach((spot, at) => {
      spot.addEventListener("click", () => { location.hash = `record-${spot.dataset.row}`; });
      spot.addEventListener("keydown", event => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (event.key === "Enter") location.hash = `record-${spot.dataset.row}`;
        if (event.key === "Escape") hide();
        if (!step) return;
        event.preventDefault();
        const next = spots[(at + step + spots.length) % spots.length];
        spot.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
      });
    });
  }
  document.addEventListener("keydown", event => { if (event.key === "Escape") hide(); });
})();
