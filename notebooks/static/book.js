/* What scrolls sideways on a small screen can be reached and scrolled with the keyboard too. */
function reachable() {
  for (const box of document.querySelectorAll("div.math, mjx-container, .bd-article pre")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
}

window.addEventListener("load", () => {
  const drawn = window.MathJax?.startup?.promise ?? Promise.resolve();
  drawn.then(reachable);
});
window.addEventListener("resize", reachable);
