// Filter the error gallery by record and by run. Without this script the page shows everything.
"use strict";
(() => {
  const form = document.getElementById("filters");
  if (!form) return;
  const list = document.getElementById("entries");
  const entries = [...list.children].map((node) => ({
    node,
    answers: [...node.querySelectorAll("[data-run]")],
  }));

  // The arguments are the answers of the first and the second run: true is right, false is wrong,
  // undefined is missing.
  const outcomes = {
    first: (first) => first === false,
    gained: (first, second) => first === true && second === false,
    lost: (first, second) => first === false && second === true,
    both: (first, second) => first === false && second === false,
    any: () => true,
  };
  const answer = (entry, run) => entry.answers.find((item) => item.dataset.run === run);
  const isRight = (item) => (item ? !item.classList.contains("wrong") : undefined);
  const confidence = (entry, run) => Number(answer(entry, run)?.dataset.confidence ?? 0);

  function matches(entry, chosen) {
    const inCategory = ["task", "view", "defect"].every(
      (name) => chosen[name] === "" || entry.node.dataset[name] === chosen[name],
    );
    return inCategory && outcomes[chosen.outcome](isRight(answer(entry, chosen.first)), isRight(answer(entry, chosen.second)));
  }

  function update() {
    const chosen = Object.fromEntries(new FormData(form));
    for (const entry of entries) {
      entry.node.hidden = !matches(entry, chosen);
      for (const item of entry.answers) {
        const position = [chosen.first, chosen.second].indexOf(item.dataset.run);
        item.hidden = position < 0 && !chosen.all;
        item.style.order = position < 0 ? 2 : position;
      }
    }
    const shown = entries.filter((entry) => !entry.node.hidden);
    if (chosen.outcome !== "any") shown.sort((a, b) => confidence(b, chosen.first) - confidence(a, chosen.first));
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
