// Search shows pieces of the pages it found, which it fetches; from files it may not.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

document.addEventListener("DOMContentLoaded", () => {
  // The sidebar shows where the reader is.
  const here = document.querySelector(".sidebar-tree .current-page > a");
  const pane = document.querySelector(".sidebar-scroll");
  if (here && pane) {
    const down = here.getBoundingClientRect().top - pane.getBoundingClientRect().top;
    pane.scrollTo({ top: pane.scrollTop + down - pane.clientHeight / 3, behavior: "instant" });
  }

  // The filter of a long table: shows the rows whose first cell has all that was typed.
  const field = document.getElementById("row-filter");
  if (!field) return;
  const rows = [...document.querySelectorAll("article table tbody tr")];
  const show = () => {
    const wanted = field.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
      shown += !row.hidden;
    }
    for (const section of document.querySelectorAll("article section section")) {
      section.hidden = wanted !== "" && ![...section.querySelectorAll("tbody tr")].some((row) => !row.hidden);
    }
    document.getElementById("row-count").textContent = wanted ? `${shown} found` : "";
  };
  field.addEventListener("input", show);
  show();
});
