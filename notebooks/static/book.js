// The theme takes no mode for "auto" as well, but calls it an error on the console.
document.documentElement.dataset.mode ||= "auto";

// What scrolls sideways on a small screen can be reached and scrolled with the keyboard too.
function reachable() {
  const inline = [...document.querySelectorAll(".bd-article span.math")];
  for (const formula of inline) formula.classList.remove("wide");
  const far = inline.filter((formula) => {
    const line = formula.closest("p, li, td, th, dd, figcaption, div");
    return formula.getBoundingClientRect().right > line.getBoundingClientRect().right + 1;
  });
  for (const formula of far) formula.classList.add("wide");
  const boxes = document.querySelectorAll("div.math, span.math.wide, mjx-container, .bd-article pre");
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
    const picture = button.querySelector(`[data-mode="${mode}"] title`);
    button.ariaLabel = ["Color mode", picture?.textContent].filter(Boolean).join(": ");
  }
  for (const button of document.querySelectorAll(".search-button-field")) {
    button.removeAttribute("aria-label");
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
