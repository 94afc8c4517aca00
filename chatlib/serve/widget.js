// The assistants of a page: `<div class="assistants">` with a table of recorded answers becomes a
// conversation with all of them at once. Nothing is loaded before the reader asks for it, and
// nothing is ever sent. Needs runtime.js; all text goes in by textContent.
(function () {
  "use strict";

  const LONGEST = 64; // tokens of an answer
  const place = document.currentScript.src.replace(/[^/]*$/, "");

  function make(tag, attributes = {}, ...children) {
    const node = Object.assign(document.createElement(tag), attributes);
    const spoken = Object.keys(attributes).filter((name) => name.includes("-") || name === "role");
    spoken.forEach((name) => node.setAttribute(name, attributes[name]));
    node.append(...children);
    return node;
  }

  // Classic scripts load from file:// too, where fetch and modules do not.
  function script(name) {
    return new Promise((resolve, reject) => {
      const node = make("script", { src: place + name, onload: resolve });
      node.onerror = () => reject(new Error(`${name} could not be loaded`));
      document.head.append(node);
    });
  }

  // Lets the page draw and react: answers come a token at a time.
  const pause = () =>
    globalThis.scheduler?.yield ? scheduler.yield() : new Promise((done) => setTimeout(done));

  const sameTurns = (a, b) => JSON.stringify(a) === JSON.stringify(b);

  class Column {
    constructor(name, pack, told) {
      Object.assign(this, { name, told, model: pack.model(name), judge: pack.model(told.judge) });
      this.turns = [];
      this.draft = make("p", { className: "draft", "aria-hidden": "true" });
      this.log = make("div", { role: "log", "aria-label": `${name}'s answers`, tabIndex: 0 });
      this.node = make("section", {}, make("h3", { textContent: name }), this.log, this.draft);
    }

    clear() {
      this.turns = [];
      this.log.replaceChildren();
    }

    // Streams into a draft that no screen reader hears; the finished answer is announced once.
    async answer(facts, question, how, asked) {
      const messages = [
        ...(facts ? [{ role: "system", content: facts }] : []),
        ...this.turns,
        { role: "user", content: question },
      ];
      const ids = [];
      for (const token of this.model.answer(messages, how)) {
        ids.push(token);
        this.draft.textContent = this.model.vocabulary.text(ids);
        await pause();
        if (asked.stopped) break;
      }
      const text = chatlib.strip(this.model.vocabulary.text(ids));
      this.draft.textContent = "";
      if (asked.dropped) return; // another conversation has begun
      this.turns.push(messages.at(-1), { role: "assistant", content: text });
      const notes = asked.stopped ? "stopped" : this.verdict(messages, text);
      const room = this.model.shape.context - LONGEST;
      const { dropped } = this.model.vocabulary.fit(messages, room);
      const forgot = dropped ? `; ${dropped} oldest turns left out, as they no longer fit` : "";
      this.log.append(
        make("p", { className: "question", textContent: question }),
        make("p", { className: "answer", textContent: text || "(nothing)" }),
        make("p", { className: "verdict", textContent: notes + forgot }),
      );
      this.log.scrollTop = this.log.scrollHeight;
    }

    // The reward model's score; the judge's too where this very answer was judged beforehand.
    verdict(messages, text) {
      const score = this.judge.score(messages, text).toFixed(2);
      const example = this.told.examples.find(({ messages: known }) => sameTurns(known, messages));
      const judged = example?.answers[this.name];
      const gold = judged?.text === text ? `; ${judged.verdict}` : "";
      return `reward model ${score}${gold}`;
    }
  }

  class Talk {
    constructor(root, told, pack) {
      this.columns = told.models.map((name) => new Column(name, pack, told));
      this.told = told;
      this.asked = { stopped: true };
      this.build();
      root.replaceChildren(this.form, this.problem, make("div", { className: "columns" },
        ...this.columns.map(({ node }) => node)));
      this.choose(0);
    }

    build() {
      const options = this.told.examples.map(({ messages }, i) =>
        make("option", { value: i, textContent: messages.at(-1).content }));
      this.offered = make("select", {}, ...options);
      this.offered.onchange = () => this.choose(this.offered.value);
      this.facts = make("textarea", { rows: 3, maxLength: 600 });
      this.question = make("input", { type: "text", maxLength: 300, required: true });
      this.draws = make("input", { type: "checkbox" });
      this.ask = make("button", { type: "submit", textContent: "Ask" });
      this.stop = make("button", { type: "button", textContent: "Stop", disabled: true,
        onclick: () => (this.asked.stopped = true) });
      this.problem = make("p", { role: "alert", className: "problem" });
      const label = (text, control) =>
        make("label", {}, make("span", { textContent: `${text} ` }), control);
      const over = make("button", { type: "button", textContent: "Start over" });
      over.onclick = () => this.clear();
      this.form = make("form", { onsubmit: (event) => (event.preventDefault(), this.say()) },
        label("A customer of the shop", this.offered),
        label("What the shop knows", this.facts),
        label("The message", this.question),
        label("Draw the words instead of taking the likeliest", this.draws),
        make("p", {}, this.ask, " ", this.stop, " ", over));
    }

    // One of the offered prompts: its facts, its earlier turns, its question.
    choose(index) {
      const messages = this.told.examples[index].messages;
      this.clear();
      this.facts.value = messages[0].role === "system" ? messages[0].content : "";
      this.question.value = messages.at(-1).content;
      const before = messages.slice(messages[0].role === "system" ? 1 : 0, -1);
      for (const column of this.columns) {
        column.turns = [...before];
        column.log.append(...before.map(({ role, content }) =>
          make("p", { className: role === "user" ? "question" : "answer", textContent: content })));
      }
    }

    clear() {
      this.asked.stopped = this.asked.dropped = true;
      this.problem.textContent = "";
      this.columns.forEach((column) => column.clear());
    }

    async say() {
      const question = this.question.value.trim();
      if (!question || this.stop.disabled === false) return;
      const asked = (this.asked = { stopped: false });
      const how = this.draws.checked
        ? { temperature: 1, seed: Math.floor(Math.random() * 2 ** 32), longest: LONGEST }
        : { temperature: 0, longest: LONGEST };
      this.busy(true);
      this.problem.textContent = "";
      try {
        const facts = this.facts.value.trim();
        await Promise.all(this.columns.map((one) => one.answer(facts, question, how, asked)));
        if (!asked.dropped) this.question.value = "";
      } catch (error) {
        this.problem.textContent = error.message;
      }
      this.busy(false);
      this.question.focus();
    }

    busy(now) {
      this.ask.disabled = now;
      this.stop.disabled = !now;
    }
  }

  // Beside the recorded answers: a button that brings the models into the page.
  function offer(root) {
    const told = JSON.parse(root.querySelector("script").textContent);
    const said = make("p", { role: "status" });
    const label = `Talk to them in this page (${(told.bytes / 1e6).toFixed(1)} MB)`;
    const begin = make("button", { type: "button", textContent: label });
    begin.onclick = async () => {
      begin.disabled = true;
      said.textContent = "Loading ...";
      try {
        await script("runtime.js");
        await script("assistants.js");
        const talk = new Talk(root, told, chatlib.open(chatlib_pack));
        talk.question.focus();
      } catch (error) {
        said.textContent = `${error.message}; the recorded answers are above`;
        begin.disabled = false;
      }
    };
    root.append(begin, said);
  }

  const start = () => document.querySelectorAll(".assistants").forEach(offer);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
