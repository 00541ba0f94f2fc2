// The error gallery: which records are shown, and whose answers. Without it, everything is shown.
"use strict";
(() => {
  const form = document.getElementById("filters");
  if (!form) return;
  const list = document.getElementById("entries");
  const entries = [...list.children].map((node) => ({
    node,
    answers: [...node.querySelectorAll("[data-cell]")],
  }));

  // Of the first and the second cell: true, right; false, wrong; undefined, not asked.
  const outcomes = {
    first: (one) => one === false,
    gained: (one, other) => one === true && other === false,
    lost: (one, other) => one === false && other === true,
    both: (one, other) => one === false && other === false,
    any: () => true,
  };
  const answer = (entry, cell) => entry.answers.find((item) => item.dataset.cell === cell);
  const right = (item) => (item ? !item.classList.contains("wrong") : undefined);
  const sure = (entry, cell) => Number(answer(entry, cell)?.dataset.sure ?? 0);

  function fits(entry, chosen) {
    const places = ["task", "view", "defect"].every(
      (name) => chosen[name] === "" || entry.node.dataset[name] === chosen[name],
    );
    return places && outcomes[chosen.outcome](right(answer(entry, chosen.first)), right(answer(entry, chosen.second)));
  }

  function update() {
    const chosen = Object.fromEntries(new FormData(form));
    for (const entry of entries) {
      entry.node.hidden = !fits(entry, chosen);
      for (const item of entry.answers) {
        const place = [chosen.first, chosen.second].indexOf(item.dataset.cell);
        item.hidden = place < 0 && !chosen.all;
        item.style.order = place < 0 ? 2 : place;
      }
    }
    const shown = entries.filter((entry) => !entry.node.hidden);
    if (chosen.outcome !== "any") shown.sort((a, b) => sure(b, chosen.first) - sure(a, chosen.first));
    list.append(...shown.map((entry) => entry.node));
    document.getElementById("shown").textContent = `${shown.length} of ${entries.length} records shown`;
    document.getElementById("none").hidden = shown.length > 0;
  }

  form.hidden = false;
  list.classList.add("compared");
  form.addEventListener("change", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(update));
  update();
})();
