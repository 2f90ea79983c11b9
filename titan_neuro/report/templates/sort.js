"use strict";
// A table whose headings are buttons: a click, Enter or Space sorts the rows under each subheading by that column.
function cellValue(row, column) {
  const cell = row.cells[column];
  if (!cell) return "";
  const text = (cell.querySelector(".value") || cell).textContent.trim();
  const number = parseFloat(text.replace(/\u2212/g, "-").replace(/,/g, ""));
  return Number.isNaN(number) ? text : number;
}
function compare(one, other) {
  if (typeof one === typeof other) return typeof one === "number" ? one - other : one.localeCompare(other);
  return typeof one === "number" ? -1 : 1;
}
function sortGroup(body, rows, before, column, sign) {
  rows.sort((one, other) => sign * compare(cellValue(one, column), cellValue(other, column)));
  rows.forEach((row) => body.insertBefore(row, before));
}
function sortBody(body, column, sign) {
  let rows = [];
  for (const row of [...body.rows]) {
    if (row.querySelector("th[scope=rowgroup]")) {
      sortGroup(body, rows, row, column, sign);
      rows = [];
    } else {
      rows.push(row);
    }
  }
  sortGroup(body, rows, null, column, sign);
}
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const sign = heading.getAttribute("aria-sort") === "descending" ? 1 : -1;
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      for (const body of table.tBodies) sortBody(body, column, sign);
    });
  });
}
