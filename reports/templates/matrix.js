"use strict";
// The page is whole without this: it only hides rows of the grid.
(() => {
  const tools = document.getElementById("tools");
  const text = document.getElementById("filter");
  const only = document.getElementById("only");
  const shown = document.getElementById("shown");
  if (!tools) return;
  tools.hidden = false;
  const families = [...document.querySelectorAll("tbody.family")];
  const apply = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const family of families) {
      let any = false;
      for (const row of family.querySelectorAll("tr.trial")) {
        const name = row.dataset.name.toLowerCase();
        const visible = words.every(word => name.includes(word)) && (!only.checked || "remarkable" in row.dataset);
        row.hidden = !visible;
        any ||= visible;
        if (visible) count += 1;
      }
      family.hidden = !any;
    }
    shown.textContent = count + " shown";
  };
  text.addEventListener("input", apply);
  only.addEventListener("change", apply);
  apply();
})();
