// The theme takes no mode for "auto" as well, but calls it an error on the console.
document.documentElement.dataset.mode ||= "auto";

// From disk a page may not read another: the search gives titles, without a line of each page.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// What scrolls sideways on a small screen can be reached and scrolled with the keyboard too.
function reachable() {
  const wide = ".math, mjx-container, .bd-article pre, .pst-scrollable-table-container";
  const boxes = document.querySelectorAll(wide);
  const hidden = [...boxes].filter((box) => box.scrollWidth > box.clientWidth);
  for (const box of hidden) box.tabIndex = 0;
}

let asked = 0;
function soon() {
  cancelAnimationFrame(asked);
  asked = requestAnimationFrame(reachable);
}

// The name of a button says what stands on it: "Search Ctrl+K", and the mode that is on.
function named() {
  const mode = document.documentElement.dataset.mode;
  for (const button of document.querySelectorAll(".theme-switch-button")) {
    const picture = button.querySelector(`:scope > [data-mode="${mode}"]`);
    const shown = picture?.querySelector("title")?.textContent ?? picture?.title;
    button.ariaLabel = ["Color mode", shown].filter(Boolean).join(": ");
  }
  for (const other of document.querySelectorAll(".search-button-field, details.hide > summary")) {
    other.removeAttribute("aria-label");
  }
}

window.addEventListener("load", () => {
  const drawn = window.MathJax?.startup?.promise ?? Promise.resolve();
  drawn.then(reachable);
  named();
  new MutationObserver(named).observe(document.documentElement, { attributeFilter: ["data-mode"] });
});
window.addEventListener("resize", soon);
// What was folded has no width until it is opened.
document.addEventListener("toggle", soon, true);
document.addEventListener("click", soon);
