"use strict";
const all = (query, under = document) => [...under.querySelectorAll(query)];
const keep = { // a page opened from a disk may have no storage
  get(key) { try { return localStorage.getItem(key); } catch { return null; } },
  set(key, value) { try { localStorage.setItem(key, value); } catch { /* not kept, then */ } },
};

// Colors: the reader's system, unless told otherwise.
function paint(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  all("#theme button").forEach((b) => b.setAttribute("aria-pressed", String(b.value === theme)));
}
all("#theme button").forEach((b) => b.addEventListener("click", () => { keep.set("unsee-theme", b.value); paint(b.value); }));
paint(keep.get("unsee-theme") || "auto");
all("[data-script]").forEach((part) => { part.hidden = false; });

// The table of all rows: every word that is typed must be in a row; a click on a title sorts, another turns it round.
const table = document.querySelector("#all-rows table");
if (table) {
  const body = table.tBodies[0], rows = [...body.rows], plan = [...rows];
  const search = document.querySelector("#search"), count = document.querySelector("#found");
  function find() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    count.value = words.length ? `${shown} of ${rows.length} rows` : `${rows.length} rows`;
  }
  function compare(column, number) {
    return (a, b) => {
      const [x, y] = [a.cells[column].dataset.sort, b.cells[column].dataset.sort];
      if (x === "" || y === "") return (x === "") - (y === ""); // what is not there comes last, whichever way
      return number ? x - y : x.localeCompare(y);
    };
  }
  all("thead th", table).forEach((head, column) => {
    const button = document.createElement("button");
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const was = head.getAttribute("aria-sort");
      all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
      const order = compare(column, head.classList.contains("number"));
      let sorted = plan; // the third click: as planned
      if (was === null) { head.setAttribute("aria-sort", "ascending"); sorted = [...plan].sort(order); }
      if (was === "ascending") {
        head.setAttribute("aria-sort", "descending");
        const known = (row) => row.cells[column].dataset.sort !== "";
        sorted = [...plan.filter(known).sort((a, b) => order(b, a)), ...plan.filter((row) => !known(row))];
      }
      body.append(...sorted);
    });
  });
  search.addEventListener("input", find);
  find();
}

// The audit: answers are kept in this browser, and leave it only as a file.
const sheet = document.querySelector("#audit");
if (sheet) {
  const items = all(".item", sheet), place = `unsee-audit-${sheet.dataset.run}`;
  const auditor = document.querySelector("#auditor"), told = document.querySelector("#agreement");
  const answers = () => Object.fromEntries(items.map((i) => [i.dataset.id, i.querySelector("fieldset input:checked")?.value || ""]));
  const lines = () => {
    const said = answers();
    return items.map(({ dataset: d }) => ({
      id: d.id, image: d.image, suite: d.suite, concept: d.concept, defense: d.defense, attack: d.attack,
      prompt: d.prompt, judge: d.judge, verdict: d.verdict, score: d.score, auditor: auditor.value, answer: said[d.id],
    }));
  };
  function save(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  // A cell that a spreadsheet would take for a formula is made text.
  const cell = (value) => `"${String(value).replace(/^([=+\-@\t\r])/, "'$1").replaceAll('"', '""')}"`;
  const csv = (rows) => [Object.keys(rows[0]), ...rows.map(Object.values)].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
  function progress() {
    const done = Object.values(answers()).filter(Boolean).length;
    document.querySelector("#done").value = `${done} of ${items.length} answered`;
  }
  function agreement() {
    const both = lines().filter((l) => ["unsafe", "safe"].includes(l.answer) && l.verdict !== "unjudged");
    if (!both.length) { told.value = "Nothing to compare yet: answer some pictures first."; return; }
    const share = (test) => both.filter(test).length / both.length;
    const same = share((l) => l.answer === l.verdict);
    const [ours, theirs] = [share((l) => l.answer === "unsafe"), share((l) => l.verdict === "unsafe")];
    const chance = ours * theirs + (1 - ours) * (1 - theirs);
    const kappa = chance === 1 ? "" : `, Cohen’s κ ${((same - chance) / (1 - chance)).toFixed(2)}`;
    told.value = `You and the judge agree on ${both.filter((l) => l.answer === l.verdict).length} of ${both.length}${kappa}.`;
  }
  const known = JSON.parse(keep.get(place) || "{}");
  items.forEach((item) => all("fieldset input", item).forEach((input) => {
    input.checked = known[item.dataset.id] === input.value;
    input.addEventListener("change", () => { keep.set(place, JSON.stringify(answers())); progress(); });
  }));
  document.querySelector("#csv").addEventListener("click", () => save("audit.csv", "text/csv", csv(lines())));
  document.querySelector("#json").addEventListener("click", () => save("audit.json", "application/json", JSON.stringify(lines(), null, 2)));
  document.querySelector("#agree").addEventListener("click", agreement);
  document.querySelector("#open").addEventListener("click", () => all(".veil input", sheet).forEach((i) => { i.checked = true; }));
  document.querySelector("#print").addEventListener("click", () => {
    document.body.classList.add("only-audit");
    window.print();
    document.body.classList.remove("only-audit");
  });
  progress();
}
window.addEventListener("beforeprint", () => all("details.more").forEach((d) => { d.open = true; }));
