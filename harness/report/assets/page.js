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
const make = (tag, name, text) => Object.assign(document.createElement(tag), {className: name, textContent: text || ""});
const tip = document.body.appendChild(make("div", "tip"));
tip.hidden = true;
addEventListener("resize", () => { tip.hidden = true; });
for (const part of document.querySelectorAll(".part")) {
  const table = part.querySelector("section.rows table");
  const rows = [...table.tBodies[0].rows], words = rows.map(row => row.textContent.toLowerCase());
  const points = [...part.querySelectorAll("circle[data-row]")];
  const search = make("input", "search"), count = make("span", "count"), box = make("p", "filter");
  search.type = "search";
  search.placeholder = "filter, as: heun -cached";
  search.setAttribute("aria-label", "filter the rows: words that they have, or -word that they have not");
  count.setAttribute("aria-live", "polite");
  search.addEventListener("input", () => {
    const asked = search.value.toLowerCase().split(/\s+/).filter(word => word && word !== "-");
    const fits = words.map(text => asked.every(word => word[0] === "-" ? !text.includes(word.slice(1)) : text.includes(word)));
    rows.forEach((row, place) => { row.hidden = !fits[place]; });
    points.forEach(point => point.classList.toggle("out", !fits[point.dataset.row]));
    count.textContent = asked.length ? `${fits.filter(Boolean).length} of ${rows.length} rows` : "";
  });
  box.append(search, count);
  table.parentElement.before(box);
  const mark = (point, on) => rows[point.dataset.row].classList.toggle("marked", on);
  for (const point of points) {
    point.querySelector("title").remove();  // the tip says it
    const show = () => {
      const [name, ...facts] = point.getAttribute("aria-label").split("\n");
      tip.replaceChildren(make("strong", "", name), ...facts.map(fact => make("div", "", fact)));
      if (point.dataset.strip) tip.append(Object.assign(make("img", ""), {src: point.dataset.strip, alt: "its first images"}));
      tip.hidden = false;
      const at = point.getBoundingClientRect(), wide = document.documentElement.clientWidth;
      tip.style.left = `${Math.max(8, Math.min(at.left + 12, wide - tip.offsetWidth - 8)) + scrollX}px`;
      tip.style.top = `${at.bottom + 8 + scrollY}px`;
      mark(point, true);
    };
    const hide = () => { tip.hidden = true; mark(point, false); };
    for (const event of ["mouseenter", "focus"]) point.addEventListener(event, show);
    for (const event of ["mouseleave", "blur"]) point.addEventListener(event, hide);
    point.addEventListener("keydown", event => { if (event.key === "Escape") hide(); });
    point.addEventListener("click", show);
  }
}
for (const link of document.querySelectorAll('a[href="#common"]'))
  link.addEventListener("click", () => { document.getElementById("common").open = true; });
