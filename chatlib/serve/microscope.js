// The token microscope: `<div class="microscope">` with the table of a recorded answer becomes an
// answer whose tokens can be pointed at or reached by Tab and arrow keys. Recorded answers come with
// the page; for answers drawn here runtime.js and the weights are loaded when the reader asks for
// it. Nothing is sent; all text goes in by textContent.
(function () {
  "use strict";

  const LONGEST = 64; // tokens of an answer
  const DRAW = "Draw an answer";
  const OTHERS = 4; // likeliest other tokens that are shown
  const place = document.currentScript.src.replace(/[^/]*$/, "");

  function make(tag, attributes = {}, ...children) {
    const node = Object.assign(document.createElement(tag), attributes);
    const spoken = Object.keys(attributes).filter((name) => name.includes("-") || name === "role");
    spoken.forEach((name) => node.setAttribute(name, attributes[name]));
    node.append(...children);
    return node;
  }

  function script(name) { // classic scripts load from file:// too
    return new Promise((resolve, reject) => {
      const node = make("script", { src: place + name, onload: resolve });
      node.onerror = () => reject(new Error(`${name} could not be loaded`));
      document.head.append(node);
    });
  }

  const label = (text, control) =>
    make("label", {}, make("span", { textContent: `${text} ` }), control);
  const pause = () => new Promise((done) => setTimeout(done)); // lets the page draw and react

  function logSoftmax(logits) {
    const top = logits.reduce((a, b) => Math.max(a, b), -Infinity);
    const total = logits.reduce((sum, x) => sum + Math.exp(x - top), 0);
    return logits.map((x) => x - top - Math.log(total));
  }

  // What can be said of a token from the two models' log-probabilities before it.
  function figures(p, q, token, textOf) {
    const mean = (value) => p.reduce((sum, x, i) => sum + Math.exp(x) * value(x, i), 0);
    const likely = [...p.keys()].sort((a, b) => p[b] - p[a]).slice(0, OTHERS + 1);
    return {
      text: textOf(token),
      logp: p[token],
      ref: q[token],
      kl: mean((x, i) => x - q[i]),
      entropy: mean((x) => -x),
      others: likely.filter((id) => id !== token).slice(0, OTHERS)
        .map((id) => `${textOf(id).trim()} ${Math.exp(p[id]).toFixed(3)}`).join(", "),
    };
  }

  class Microscope {
    constructor(root, told) {
      Object.assign(this, { told, answers: [] });
      this.which = make("select", { onchange: () => this.show(+this.which.value) });
      this.shade = make("select", { onchange: () => this.paint() });
      this.said = make("p", { className: "said" });
      this.tokens = make("p", { className: "tokens", role: "group", "aria-label": "tokens" });
      this.tokens.addEventListener("keydown", (event) => this.move(event));
      this.panel = make("table", { className: "table", id: "looked-at" });
      this.status = make("p", { role: "status" });
      this.own = make("div", { className: "own" }, this.offer());
      root.replaceChildren(label("Answer", this.which), label("Shade by", this.shade), this.said,
        this.tokens, this.panel, this.own, this.status);
      told.recorded.forEach(({ messages, tokens }) => this.keep("recorded", messages,
        tokens.text.map((_, t) => Object.fromEntries(
          Object.entries(tokens).map(([name, column]) => [name, column[t]])))));
      this.show(0);
    }

    // One more answer to choose from: its prompt, and the figures of its tokens.
    keep(origin, messages, rows) {
      const textContent = `${origin}: ${messages.at(-1).content}`;
      this.which.append(make("option", { value: this.answers.length, textContent }));
      this.answers.push({ messages, rows });
    }

    show(i) {
      const { messages, rows } = this.answers[i];
      Object.assign(this, { rows });
      this.which.value = i;
      const turns = messages.map(({ role, content }) => `${this.told.speaker[role]}: ${content}`);
      this.said.textContent = turns.join("\n");
      const measured = this.told.columns.filter(([name]) => typeof rows[0]?.[name] === "number");
      const before = this.shade.value || "kl";
      this.shade.replaceChildren(...measured.map(([value, , name]) =>
        make("option", { value, textContent: name, selected: value === before })));
      this.tokens.replaceChildren(...rows.map((row, t) => {
        const look = () => this.look(t);
        const events = { onfocus: look, onmouseenter: look, onclick: look };
        return make("button", { type: "button", textContent: row.text, ...events });
      }));
      this.paint();
      this.look(0);
    }

    // Blue for what is above 0, orange for what is below; the strongest shade for the largest.
    paint() {
      const values = this.rows.map((row) => row[this.shade.value] - (this.shade.value === "ratio"));
      const largest = Math.max(...values.map(Math.abs), 1e-9);
      values.forEach((value, t) => {
        this.tokens.children[t].dataset.sign = value < 0 ? "below" : "above";
        this.tokens.children[t].style.setProperty("--share", Math.abs(value) / largest);
      });
    }

    look(t) {
      const row = this.rows[t];
      [...this.tokens.children].forEach((node, i) => {
        node.classList.toggle("looked-at", i === t);
        node.setAttribute("aria-describedby", i === t ? "looked-at" : "");
      });
      const known = this.told.columns.filter(([name]) => row[name] !== undefined);
      const shown = (value) => (typeof value === "boolean" ? (value ? "yes" : "no") : value.toFixed(3));
      const lines = known.map(([name, , long]) => [long, shown(row[name])]);
      lines.push(["likeliest others, with probability", row.others]);
      this.panel.replaceChildren(
        make("caption", { textContent: `Token ${t + 1} of ${this.rows.length}: ${row.text.trim()}` }),
        make("tbody", {}, ...lines.map(([name, value]) => make("tr", {},
          make("th", { scope: "row", textContent: name }), make("td", { textContent: value })))));
    }

    move(event) {
      const all = [...this.tokens.children], at = all.indexOf(document.activeElement);
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: all.length - 1 }[event.key];
      if (to === undefined || !all[to]) return;
      event.preventDefault();
      all[to].focus();
    }

    // A button that brings the models into the page.
    offer() {
      const size = (this.told.bytes / 1e6).toFixed(1);
      const begin = make("button", { type: "button",
        textContent: `Draw answers in this page (${size} MB)` });
      begin.onclick = async () => {
        begin.disabled = true;
        this.status.textContent = "Loading ...";
        try {
          if (!globalThis.chatlib) await script("runtime.js");
          if (!globalThis.chatlib_pack) await script("assistants.js");
          this.pack = chatlib.open(chatlib_pack);
          this.status.textContent = "";
          this.own.replaceChildren(this.form());
          this.question.focus();
        } catch (error) {
          this.status.textContent = error.message;
          begin.disabled = false;
        }
      };
      return begin;
    }

    form() {
      const { prompts, models } = this.told;
      const option = (text, value) => make("option", { value, textContent: text });
      this.prompt = make("select", {}, ...prompts.map((one, i) => option(one.at(-1).content, i)));
      this.question = make("input", { type: "text", maxLength: 300, required: true });
      this.writer = make("select", {}, ...models.map((name) => option(name, name)));
      this.likely = make("input", { type: "checkbox" });
      this.draw = make("button", { type: "submit", textContent: DRAW });
      this.writer.value = this.told.policy;
      this.prompt.onchange = () => (this.question.value = prompts[this.prompt.value].at(-1).content);
      this.prompt.onchange();
      return make("form", { onsubmit: (event) => (event.preventDefault(), this.drawn()) },
        label("A customer of the shop", this.prompt), label("The message", this.question),
        label("Written by", this.writer),
        label("The likeliest words instead of drawn ones", this.likely), this.draw);
    }

    // The writer draws; the policy (PPO where SFT writes) and the reference read along.
    async drawn() {
      const { reference, policy, prompts } = this.told;
      const writer = this.writer.value, lens = writer === reference ? policy : writer;
      const [model, own, ref] = [writer, lens, reference].map((name) => this.pack.model(name));
      const last = { role: "user", content: this.question.value };
      const messages = [...prompts[this.prompt.value].slice(0, -1), last];
      this.draw.disabled = true;
      this.status.textContent = "";
      try {
        const { ids } = model.vocabulary.fit(messages, model.shape.context - LONGEST);
        const states = [own, ref].map((one) => one.begin());
        let h = [own, ref].map((one, i) => one.readAll(ids, states[i]));
        const textOf = (id) => model.vocabulary.text([id]) || model.vocabulary.tokens[id];
        const seed = Math.floor(Math.random() * 2 ** 32);
        const how = { temperature: this.likely.checked ? 0 : 1, seed, longest: LONGEST };
        const rows = [];
        for (const token of model.answer(messages, how)) {
          const [p, q] = [own, ref].map((one, i) => logSoftmax(one.logits(h[i])));
          rows.push(figures(p, q, token, textOf));
          h = [own, ref].map((one, i) => one.read(token, states[i]));
          this.draw.textContent = `Drawing (${rows.length} tokens)`;
          await pause();
        }
        this.keep(`drawn by ${writer}`, messages, rows);
        this.show(this.answers.length - 1);
        const text = rows.map((row) => row.text).join("");
        this.status.textContent = `${writer}: ${text}; ${lens} under the lens, ${reference} beside it`;
      } catch (error) {
        this.status.textContent = error.message;
      }
      this.draw.disabled = false;
      this.draw.textContent = DRAW;
    }
  }

  const start = () => document.querySelectorAll(".microscope").forEach((root) =>
    new Microscope(root, JSON.parse(root.querySelector("script").textContent)));
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
