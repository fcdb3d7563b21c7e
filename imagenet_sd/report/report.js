// Sorting a table: missing values stay at the end; two clicks turn the order round. The state is told by aria-sort.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0], column = head.cellIndex;
    const down = head.getAttribute("aria-sort") !== "descending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const numeric = head.classList.contains("number");
    const value = (row, key) => {
      const text = row.cells[column].dataset[key];
      return text === undefined ? null : numeric ? Number(text) : text;
    };
    const compare = (a, b, key) => {
      const x = value(a, key), y = value(b, key);
      if (x === null || y === null) return x === y ? 0 : x === null ? 1 : -1;
      const order = numeric ? x - y : x.localeCompare(y, "en", { numeric: true });
      return down ? -order : order;
    };
    const rows = [...body.rows].sort((a, b) => compare(a, b, "sort") || compare(a, b, "paper"));
    body.append(...rows);
  });
}
