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
  milliseconds: ({ name, messages }) => {
    const began = performance.now();
    const tokens = [...model(name).answer(messages)].length;
    return [performance.now() - began, tokens];
  },
};
const { job, ...what } = JSON.parse(fs.readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(jobs[job](what)));
