// What the drivers of transformers.js have in common, in Node and in a page. Job and answer: decode.py.

// `load()` is the model, as users of the library get it.
export async function answer({ Tensor, env }, job, load) {
  const model = await said(load);
  const failed = model.error !== undefined;
  const all = async () => {
    const answers = [];
    for (const prompt of job.prompts) answers.push((await greedy(Tensor, model, job, { rows: [prompt], side: 'left', pad: job.eos[0] }))[0]);
    return answers;
  };
  const answer = { runtime: 'transformers.js', version: env.version, greedy: failed ? model : await said(all), batches: [] };
  for (const batch of job.batches) answer.batches.push(failed ? model : await said(() => greedy(Tensor, model, job, batch)));
  return answer;
}

async function said(compute) {
  try {
    return await compute();
  } catch (error) {
    return { error: `${error?.name ?? 'Error'}: ${error?.message ?? error}` };
  }
}

async function greedy(Tensor, model, job, { rows, side, pad }) {
  const length = Math.max(...rows.map((row) => row.length));
  const fill = (row, what) => Array(length - row.length).fill(what);
  const whole = (row, what) => (side === 'left' ? [...fill(row, what), ...row] : [...row, ...fill(row, what)]);
  const ids = rows.map((row) => whole(row, pad)), mask = rows.map((row) => whole(row.map(() => 1), 0));
  const run = side === 'left' ? generated : looped;
  const last = rows.map((row) => (side === 'left' ? length : row.length) - 1);
  return (await run(Tensor, model, job, { ids, mask, last, pad })).map((row) => cut(row, job.eos));
}

// generate() takes rows that are padded on the left.
async function generated(Tensor, model, job, { ids, mask, pad }) {
  const out = await model.generate({
    inputs: int64(Tensor, ids), attention_mask: int64(Tensor, mask),
    max_new_tokens: job.max_new_tokens, do_sample: false, eos_token_id: job.eos, pad_token_id: pad,
  });
  return out.tolist().map((row) => row.slice(ids[0].length).map(Number));
}

// Rows that are padded on the right, by the model's own forward(); `last` is the place of each row's last token.
async function looped(Tensor, model, job, { ids, mask, last }) {
  const rows = ids.map(() => []);
  let past_key_values = null;
  while (rows[0].length < job.max_new_tokens && !rows.every((row) => row.some((id) => job.eos.includes(id)))) {
    const out = await model({ input_ids: int64(Tensor, ids), attention_mask: int64(Tensor, mask), past_key_values });
    const presents = Object.entries(out).filter(([name]) => name.startsWith('present.'));
    past_key_values = Object.fromEntries(presents.map(([name, value]) => [name.replace('present.', 'past_key_values.'), value]));
    const next = largest(out.logits.to('float32'), last);
    next.forEach((id, row) => rows[row].push(id));
    [ids, mask, last] = [next.map((id) => [id]), mask.map((row) => [...row, 1]), next.map(() => 0)];
  }
  return rows;
}

// The token with the largest of `logits [rows, places, vocab]` in each row, at the row's place.
function largest({ data, dims: [, places, vocab] }, at) {
  return at.map((place, row) => {
    const start = (row * places + place) * vocab;
    let best = 0;
    for (let id = 1; id < vocab; id++) if (data[start + id] > data[start + best]) best = id;
    return best;
  });
}

function cut(ids, eos) {
  const end = ids.findIndex((id) => eos.includes(id));
  return end < 0 ? ids : ids.slice(0, end);
}

const int64 = (Tensor, rows) => new Tensor('int64', BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0].length]);
