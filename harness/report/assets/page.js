"use strict";
for (const table of document.querySelectorAll(".scroll > table")) {
  const heads = [...table.querySelectorAll("thead th")];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const key = row => {
      const cell = row.cells[column];
      const text = (cell.querySelector("summary") || cell).textContent.trim();
      const number = parseFloat(text.replace(/^≤\s*/, ""));
      return [Number.isNaN(number), number, text];
    };
    const order = (a, b) => a[0] !== b[0] ? a[0] - b[0] : a[0] ? a[2].localeCompare(b[2]) * (down ? -1 : 1)
      : (a[1] - b[1]) * (down ? -1 : 1);
    const rows = [...body.rows].map(row => [key(row), row]).sort((a, b) => order(a[0], b[0]));
    body.append(...rows.map(pair => pair[1]));
  }));
}
for (const link of document.querySelectorAll('a[href="#common"]'))
  link.addEventListener("click", () => { document.getElementById("common").open = true; });
