// Loads classic scripts as a page does, reads jobs from the standard input, prints what they gave.
const fs = require("fs");
const vm = require("vm");

const [, , ...scripts] = process.argv;
for (const file of scripts) vm.runInThisContext(fs.readFileSync(file, "utf8"), { filename: file });
const { vocabulary, names, model } = globalThis.chatlib.open(globalThis.chatlib_pack);

const logitsAt = (one, ids) => {
  const state = one.begin();
  return ids.map((id) => Array.from(one.logits(one.read(id, state))));
};
const jobs = {
  names: () => names,
  pieces: ({ texts }) => texts.map((text) => text.match(vocabulary.pieces) || []),
  ids: ({ texts }) => texts.map((text) => vocabulary.ids(text)),
  text: ({ rows }) => rows.map((ids) => globalThis.chatlib.strip(vocabulary.text(ids))),
  prompt: ({ prompts }) => prompts.map((messages) => vocabulary.prompt(messages)),
  fit: ({ messages, room }) => vocabulary.fit(messages, room),
  logits: ({ name, rows }) => rows.map((ids) => logitsAt(model(name), ids)),
  say: ({ name, asked }) => asked.map(({ messages, ...how }) => model(name).say(messages, how)),
  score: ({ name, pairs }) => pairs.map(([messages, answer]) => model(name).score(messages, answer)),
  uniform: ({ seeds, n }) => seeds.map((seed) => {
    const random = globalThis.chatlib.generator(seed);
    return Array.from({ length: n }, () => random());
  }),
  ends: ({ name, rows }) => rows.map((ids) => {
    const one = model(name);
    return Array.from(one.logits(one.readAll(ids, one.begin())));
  }),
  // Log-probabilities of an answer's tokens, which are given as texts.
  likelihood: ({ name, messages, answer }) => {
    const one = model(name);
    const state = one.begin();
    let h = one.readAll(vocabulary.prompt(messages), state);
    return answer.map((text) => {
      const id = vocabulary.tokens.indexOf(text.replace(" ", "\u0120"));
      const p = globalThis.chatlib.softmax(one.logits(h));
      h = one.read(id, state);
      return Math.log(p[id]);
    });
  },
  milliseconds: ({ name, messages }) => { // of a core, a token, reading the prompt included
    model(name); // unpacked once, when the page is loaded
    const began = process.cpuUsage();
    const tokens = [...model(name).answer(messages)].length;
    const { user, system } = process.cpuUsage(began);
    return (user + system) / 1000 / tokens;
  },
};
const { job, ...what } = JSON.parse(fs.readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(jobs[job](what)));
