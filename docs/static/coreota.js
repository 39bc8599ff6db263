// Search shows pieces of the pages it found, which it fetches; from files it may not.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// The reference's filter: shows the symbols whose name has all that was typed.
document.addEventListener("DOMContentLoaded", () => {
  const field = document.getElementById("symbol-filter");
  if (!field) return;
  const rows = [...document.querySelectorAll("article section section table tbody tr")];
  const show = () => {
    const wanted = field.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
      shown += !row.hidden;
    }
    for (const section of document.querySelectorAll("article section section")) {
      section.hidden = ![...section.querySelectorAll("tbody tr")].some((row) => !row.hidden);
    }
    document.getElementById("symbol-count").textContent = wanted ? `${shown} found` : "";
  };
  field.addEventListener("input", show);
  show();
});
