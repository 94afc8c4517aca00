// What a page shows, looked at from inside it; `views.py` asks. What is wrong comes as sentences.
(() => {
  const all = (what, inside = document) => [...inside.querySelectorAll(what)];
  const name = (node) => {
    const kind = [...node.classList].slice(0, 2).map((one) => `.${one}`).join("");
    const text = node.textContent.trim().replace(/\s+/g, " ").slice(0, 40);
    return `<${node.localName}${node.id && `#${node.id}`}${kind}> "${text}"`;
  };

  // What lies behind a node: the grounds of its ancestors up to one that nothing shines through.
  const behind = (node, known) => {
    if (!node) return "";
    if (!known.has(node)) {
      const { backgroundColor, backgroundImage, opacity } = getComputedStyle(node);
      const opaque = backgroundColor.startsWith("rgb(") && opacity === "1";
      const own = [backgroundColor, backgroundImage, opacity].join(" ");
      known.set(node, opaque ? own : `${own} | ${behind(node.parentElement, known)}`);
    }
    return known.get(node);
  };
  const letters = (node, known) => {
    const { color, fontSize, fontWeight, textDecorationLine } = getComputedStyle(node);
    return [color, fontSize, fontWeight, textDecorationLine, behind(node, known)].join(" ");
  };
  // Those of the nodes that look like one before them. (A single letter is one look, words are
  // another: axe does not judge the contrast of the former.)
  const again = (nodes, seen = new Set()) => {
    const known = new Map();
    return nodes.filter((node) => {
      const parent = node.parentElement;
      const kind = [node.localName === "a", node.textContent.trim().length > 1];
      const look = [...kind, letters(node, known), letters(parent, known)].join();
      return seen.size === seen.add(look).size;
    });
  };

  // The next frame, and what waited for it; a window that nobody sees may draw none.
  const drawn = () => new Promise((done) => {
    requestAnimationFrame(() => setTimeout(done));
    setTimeout(done, 2000);
  });

  // Longer than any script of a page waits after a change before it acts.
  const rest = () => new Promise((done) => setTimeout(done, 1000));

  // Folded answers and hidden cells are part of the page too.
  const unfold = () => {
    for (const node of all("details")) node.open = true;
    for (const node of all(".toggle-hidden")) node.classList.remove("toggle-hidden");
    return drawn();
  };

  // What reaches beyond the right edge, unless it lies in a box that scrolls or opens on demand.
  const overflow = () => {
    const edge = document.documentElement.clientWidth + 1;
    const apart = (node) => {
      for (; node && node !== document.body; node = node.parentElement) {
        const { overflowX, position, clip } = getComputedStyle(node);
        if (["auto", "scroll"].includes(overflowX) || position === "fixed") return true;
        if (clip !== "auto") return true; // for those who hear the page
      }
      return false;
    };
    const far = new Set(all("body *").filter((node) => {
      const box = node.getBoundingClientRect();
      return box.width && box.height && box.right > edge;
    }));
    const outer = [...far].filter((node) => !far.has(node.parentElement) && !apart(node));
    const whole = document.documentElement.scrollWidth;
    if (whole >= edge && !outer.length) return [`the page is ${whole} pixels wide`];
    return outer.map((node) => `${name(node)} reaches beyond the right edge`);
  };

  // MathJax leaves no element of class `math` without its own, and no TeX as text.
  const formulas = () => {
    const found = all(".math")
      .filter((node) => !node.querySelector("mjx-container"))
      .map((node) => `${name(node)} is not rendered`);
    for (const node of all("mjx-merror")) {
      found.push(`${node.title || node.textContent} in ${name(node.closest(".math") ?? node)}`);
    }
    const kept = "pre, code, script, style, textarea, mjx-container, .math";
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const { data, parentElement } = texts.currentNode;
      if (/\\[([]|\\[a-zA-Z]+\{|\$\$/.test(data) && !parentElement.closest(kept)) {
        found.push(`${name(parentElement)} shows TeX as text`);
      }
    }
    return found;
  };

  const images = () =>
    [...document.images]
      .filter((image) => !image.complete || !image.naturalWidth)
      .map((image) => `${image.getAttribute("src").slice(0, 80)} is no picture`);

  const links = () => all("a[href]").map((link) => link.href);

  // One of each kind is enough for axe, which takes half a minute for the ten thousand pieces of
  // a page's code and formulas: a piece of code that looks like one before it becomes plain text,
  // and a formula a box of its size. The layout stays as it is.
  const thin = () => {
    const pieces = all("pre span").filter((node) => !node.children.length);
    const boxes = again(all("mjx-container"))
      .filter((node) => !node.closest("a, button, summary, th, label"))
      .map((node) => [node, (node.firstElementChild ?? node).getBoundingClientRect()]);
    for (const node of again(pieces)) node.replaceWith(node.textContent);
    for (const node of all("pre")) node.normalize();
    for (const [node, { width, height }] of boxes) {
      const box = document.createElement("span");
      box.style.cssText = `display:inline-block;width:${width}px;height:${height}px`;
      node.replaceChildren(box);
    }
  };

  const violations = async (where, options) => {
    const found = await axe.run(where, { ...options, preload: false, resultTypes: ["violations"] });
    return found.violations.flatMap(({ id, nodes }) => nodes.map((node) => {
      const why = [...node.any, ...node.all, ...node.none].map((one) => one.message);
      return `${id}: ${node.target.join(" ")}: ${why[0]}`;
    }));
  };
  const TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];
  const COLOURS = ["color-contrast", "link-in-text-block"];

  // Rules of the levels A and AA that do not ask for colours; one of them axe calls an experiment.
  const structure = () => {
    const rules = Object.fromEntries(COLOURS.map((rule) => [rule, { enabled: false }]));
    rules["label-content-name-mismatch"] = { enabled: true };
    return violations(document, { runOnly: TAGS, rules });
  };

  // Rules about colours, for one of all texts in the same letters on the same ground. The views of
  // a page share most of them: what was asked about in one is not asked about in the next.
  const asked = new Set();
  const colours = async () => {
    const written = all("body *").filter((node) =>
      [...node.childNodes].some((one) => one.nodeType === Node.TEXT_NODE && one.data.trim()),
    );
    const shown = written.filter((node) => node.checkVisibility());
    const same = new Set(again(shown, asked));
    const others = shown.filter((node) => !same.has(node));
    if (!others.length) return [];
    const found = await violations({ include: others }, { runOnly: COLOURS });
    if (found.length) asked.clear(); // asked about again, it is found again
    return found;
  };

  // Whether the theme, where there is one, follows the system; it hears of a change a little later.
  const follows = async (scheme) => {
    const { dataset } = document.documentElement;
    const other = () => dataset.theme !== undefined && dataset.theme !== scheme;
    for (let i = 0; i < 100 && other(); i++) await new Promise((done) => setTimeout(done, 100));
    return !other();
  };
  const functions = { drawn, rest, unfold, overflow, formulas, images, links, thin, structure, colours };
  window.look = { ...functions, follows };
})();
