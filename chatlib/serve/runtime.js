// A trained assistant in a page: tokens, a Llama's forward pass, sampling and the reward model's
// score. A classic script without dependencies, so it works from file:// with the network cut.
// `chatlib.open(pack)` takes what `chatlib export ... --browser` wrote into `chatlib_pack`.
(function (root) {
  "use strict";

  // --- packed weights

  function bytesOf(base64) {
    return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  }

  // [base64 of the numbers, base64 of their scales]: without scales the numbers are float32. A
  // scale is the upper half of a float32 and serves a group of integers that follow each other.
  function unpack([numbers, scales], bits) {
    const buffer = bytesOf(numbers).buffer;
    if (!scales) return new Float32Array(buffer);
    const whole = bits === 8 ? new Int8Array(buffer) : new Int16Array(buffer);
    const halves = new Uint16Array(bytesOf(scales).buffer);
    const scale = new Float32Array(Uint32Array.from(halves, (half) => half << 16).buffer);
    const group = whole.length / scale.length;
    return Float32Array.from(whole, (n, i) => n * scale[Math.floor(i / group)]);
  }

  // --- tokens: byte-level BPE (Sennrich et al. 2016)

  // The character that stands for each byte in a vocabulary: printable ones stand for themselves.
  const ALPHABET = [];
  for (let byte = 0, next = 256; byte < 256; byte++) {
    const shown = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    ALPHABET.push(String.fromCharCode(shown ? byte : next++));
  }
  const BYTE_OF = new Map(ALPHABET.map((character, byte) => [character, byte]));

  class Vocabulary {
    constructor({ tokens, merges, special, pieces, end, roles }) {
      const idOf = new Map(tokens.map((token, id) => [token, id]));
      Object.assign(this, { tokens, end, roles, special: new Set(special) });
      this.pieces = new RegExp(pieces, "gu");
      this.byteIds = ALPHABET.map((character) => idOf.get(character));
      this.size = tokens.length;
      this.merges = new Map();
      merges.forEach(([left, right], rank) => {
        const merged = idOf.get(tokens[left] + tokens[right]);
        this.merges.set(left * this.size + right, [rank, merged]);
      });
      this.bytes = tokens.map((token) => Array.from(token, (c) => BYTE_OF.get(c)));
    }

    // A text's token ids. No text becomes a special token: see `neutral`.
    ids(text) {
      const bytes = (piece) => Array.from(new TextEncoder().encode(piece));
      const pieces = this.neutral(text).match(this.pieces) || [];
      return pieces.flatMap((piece) => this.merge(bytes(piece).map((byte) => this.byteIds[byte])));
    }

    // One piece: the pair that was learnt first is joined first, the leftmost of equals.
    merge(ids) {
      for (;;) {
        let best = null;
        for (let i = 0; i + 1 < ids.length; i++) {
          const found = this.merges.get(ids[i] * this.size + ids[i + 1]);
          if (found && (!best || found[0] < best.rank)) best = { rank: found[0], id: found[1], i };
        }
        if (!best) return ids;
        ids.splice(best.i, 2, best.id);
      }
    }

    // A special token in somebody's text is broken up: it can neither end a turn nor open one.
    neutral(text) {
      for (const id of this.special) {
        const token = this.tokens[id];
        text = text.replaceAll(token, `${token[0]} ${token.slice(1)}`);
      }
      return text;
    }

    // <|system|>facts<|end|><|user|>question<|end|><|assistant|>
    prompt(messages) {
      const turns = messages.flatMap(({ role, content }) => [
        this.roles[role],
        ...this.ids(content),
        this.end,
      ]);
      return [...turns, this.roles.assistant];
    }

    // The oldest turns go until the prompt has at most `room` tokens; facts and last turn stay.
    fit(messages, room) {
      const facts = messages.filter(({ role }, i) => i === 0 && role === "system");
      const rest = messages.slice(facts.length);
      const starts = [...rest.keys()].filter((i) => rest[i].role === "user");
      for (const [dropped, start] of starts.entries()) {
        const ids = this.prompt([...facts, ...rest.slice(start)]);
        if (ids.length <= room) return { ids, dropped };
      }
      throw new RangeError(`the last message exceeds the ${room} tokens that fit; shorten it`);
    }

    // Token ids as text, special tokens left out; broken characters become U+FFFD.
    text(ids) {
      const bytes = ids.filter((id) => !this.special.has(id)).flatMap((id) => this.bytes[id]);
      return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes));
    }
  }

  function strip(text) { // as Python's `str.strip` does
    return text.replace(/^[\p{White_Space}\x1c-\x1f]+|[\p{White_Space}\x1c-\x1f]+$/gu, "");
  }

  // --- the forward pass; sums in double precision

  // out = W x for a (rows, columns) matrix stored row by row
  function product(W, x, rows) {
    const out = new Float64Array(rows);
    for (let row = 0, at = 0; row < rows; row++) {
      let sum = 0;
      for (let column = 0; column < x.length; column++) sum += W[at++] * x[column];
      out[row] = sum;
    }
    return out;
  }

  function rmsNorm(x, weight, eps) {
    let squares = 0;
    for (const value of x) squares += value * value;
    const scale = 1 / Math.sqrt(squares / x.length + eps);
    return x.map((value, i) => value * scale * weight[i]);
  }

  function softmax(scores) {
    const largest = scores.reduce((a, b) => Math.max(a, b), -Infinity);
    const powers = scores.map((score) => Math.exp(score - largest));
    const total = powers.reduce((a, b) => a + b, 0);
    return powers.map((power) => power / total);
  }

  class Model {
    constructor({ kind, shape, bits, tensors, mean, std }, vocabulary) {
      Object.assign(this, { kind, shape, mean, std, vocabulary });
      this.weights = {};
      for (const name in tensors) this.weights[name] = unpack(tensors[name], bits);
      const half = shape.width / 2;
      this.frequencies = Array.from({ length: half }, (_, i) => shape.theta ** (-i / half));
    }

    // Keys and values of what was read so far.
    begin() {
      const layers = Array.from({ length: this.shape.layers }, () => ({ K: [], V: [] }));
      return { length: 0, layers };
    }

    // Rotary positions: entry i of every head turns with entry i + width / 2 (Su et al. 2021).
    rotate(x, position) {
      const { width } = this.shape;
      const half = width / 2;
      for (let start = 0; start < x.length; start += width) {
        for (let i = 0; i < half; i++) {
          const angle = position * this.frequencies[i];
          const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
          const [a, b] = [x[start + i], x[start + i + half]];
          x[start + i] = a * cos - b * sin;
          x[start + i + half] = b * cos + a * sin;
        }
      }
      return x;
    }

    attention(x, w, { K, V }, position) {
      const { heads, keyHeads, width } = this.shape;
      const Q = this.rotate(product(w("self_attn.q_proj"), x, heads * width), position);
      K.push(this.rotate(product(w("self_attn.k_proj"), x, keyHeads * width), position));
      V.push(product(w("self_attn.v_proj"), x, keyHeads * width));
      const mixed = new Float64Array(heads * width);
      for (let head = 0; head < heads; head++) {
        const from = Math.floor((head * keyHeads) / heads) * width;
        const scores = K.map((key) => {
          let sum = 0;
          for (let i = 0; i < width; i++) sum += Q[head * width + i] * key[from + i];
          return sum / Math.sqrt(width);
        });
        softmax(scores).forEach((weight, t) => {
          for (let i = 0; i < width; i++) mixed[head * width + i] += weight * V[t][from + i];
        });
      }
      return product(w("self_attn.o_proj"), mixed, x.length);
    }

    feedForward(x, w) {
      const gate = product(w("mlp.gate_proj"), x, this.shape.inner);
      const up = product(w("mlp.up_proj"), x, this.shape.inner);
      const mixed = gate.map((g, i) => (g / (1 + Math.exp(-g))) * up[i]); // SwiGLU (Shazeer 2020)
      return product(w("mlp.down_proj"), mixed, x.length);
    }

    // The last hidden state after one more token; the state grows by it.
    read(token, state) {
      const { hidden, eps } = this.shape;
      const table = this.weights["model.embed_tokens.weight"];
      let x = Float64Array.from(table.subarray(token * hidden, (token + 1) * hidden));
      const add = (change) => (x = x.map((value, i) => value + change[i]));
      state.layers.forEach((cache, layer) => {
        const w = (name) => this.weights[`model.layers.${layer}.${name}.weight`];
        add(this.attention(rmsNorm(x, w("input_layernorm"), eps), w, cache, state.length));
        add(this.feedForward(rmsNorm(x, w("post_attention_layernorm"), eps), w));
      });
      state.length++;
      return rmsNorm(x, this.weights["model.norm.weight"], eps);
    }

    readAll(ids, state) {
      return ids.reduce((_, id) => this.read(id, state), null);
    }

    // Logits of the next token. (vocabulary,)
    logits(h) {
      const W = this.weights["lm_head.weight"] || this.weights["model.embed_tokens.weight"];
      return product(W, h, W.length / this.shape.hidden);
    }

    // The tokens of an answer, one by one, the end's among them. Temperature 0: the likeliest.
    *answer(messages, { temperature = 0, seed = 0, longest = 64 } = {}) {
      const { vocabulary, shape } = this;
      const { ids } = vocabulary.fit(messages, shape.context - longest);
      const state = this.begin();
      const random = generator(seed);
      let h = this.readAll(ids, state);
      for (let n = 0; n < longest; n++) {
        const token = draw(this.logits(h), temperature, random);
        yield token;
        if (token === vocabulary.end) return;
        h = this.read(token, state);
      }
    }

    say(messages, options) {
      return strip(this.vocabulary.text([...this.answer(messages, options)]));
    }

    // The reward model's score of an answer, read at its end token; the oldest turns may go.
    score(messages, answer) {
      const said = [...this.vocabulary.ids(answer), this.vocabulary.end];
      const { ids } = this.vocabulary.fit(messages, this.shape.context - said.length);
      const h = this.readAll([...ids, ...said], this.begin());
      const [raw] = product(this.weights["score.weight"], h, 1);
      return (raw - this.mean) / this.std;
    }
  }

  // --- sampling, with the draws of torch

  // The first token whose cumulative probability exceeds a uniform number.
  function draw(logits, temperature, random) {
    if (temperature === 0) return logits.reduce((best, x, i) => (x > logits[best] ? i : best), 0);
    let total = 0;
    const below = softmax(logits.map((x) => x / temperature)).map((p) => (total += p));
    const u = random() * total;
    return below.findIndex((sum) => sum > u);
  }

  // MT19937 (Matsumoto and Nishimura 1998) as `torch.rand(1, dtype=float64)` on a CPU draws from
  // it: the lower 53 bits of two numbers, the first of them the upper half.
  function generator(seed) {
    const state = new Uint32Array(624);
    state[0] = seed;
    for (let i = 1; i < 624; i++) {
      state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
    }
    let at = 624;
    const next = () => {
      if (at === 624) {
        for (let i = 0; i < 624; i++) {
          const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
          state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
        }
        at = 0;
      }
      let y = state[at++];
      y ^= y >>> 11;
      y ^= (y << 7) & 0x9d2c5680;
      y ^= (y << 15) & 0xefc60000;
      return (y ^ (y >>> 18)) >>> 0;
    };
    return () => ((next() & 0x1fffff) * 2 ** 32 + next()) / 2 ** 53;
  }

  // --- what pages use

  // The models of a pack by name; weights are unpacked when a model is first asked for.
  function open({ vocabulary, models }) {
    const words = new Vocabulary(vocabulary);
    const opened = {};
    const model = (name) => (opened[name] ??= new Model(models[name], words));
    return { vocabulary: words, names: Object.keys(models), model };
  }

  root.chatlib = { open, strip, generator, softmax };
})(globalThis);
