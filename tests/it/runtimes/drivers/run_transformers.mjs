// transformers.js in Node: AutoModelForCausalLM.from_pretrained(folder).generate(), told by the folder alone. Job and answer: decode.py.
import { createRequire } from 'node:module';
import fs from 'node:fs';
import path from 'node:path';

const require = createRequire(process.env.QONNX_NODE_MODULES + '/');
const { AutoModelForCausalLM, Tensor, env } = require('@huggingface/transformers');
const job = JSON.parse(fs.readFileSync(0, 'utf8'));
const artifact = path.resolve(job.artifact);
env.allowRemoteModels = false;
env.localModelPath = path.dirname(artifact) + '/';
// What libraries say goes to stderr: stdout is the answer's.
console.log = console.info = console.warn = console.error;

const said = async (compute) => {
  try {
    return await compute();
  } catch (error) {
    return { error: `${error?.name ?? 'Error'}: ${error?.message ?? error}` };
  }
};

const cut = (ids) => {
  const end = ids.findIndex((id) => job.eos.includes(id));
  return end < 0 ? ids : ids.slice(0, end);
};

const int64 = (rows) => new Tensor('int64', BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0].length]);

async function greedy(model, { rows, side, pad }) {
  if (side === 'right') throw new Error('generate() of transformers.js takes rows that are padded on the left');
  const length = Math.max(...rows.map((row) => row.length));
  const before = (row, what) => [...Array(length - row.length).fill(what), ...row];
  const out = await model.generate({
    inputs: int64(rows.map((row) => before(row, pad))),
    attention_mask: int64(rows.map((row) => before(row.map(() => 1), 0))),
    max_new_tokens: job.max_new_tokens, do_sample: false, eos_token_id: job.eos, pad_token_id: pad,
  });
  return out.tolist().map((ids) => cut(ids.slice(length).map(Number)));
}

const model = await said(() => AutoModelForCausalLM.from_pretrained(path.basename(artifact), { device: 'cpu' }));
const failed = typeof model.generate !== 'function';
const one = async (prompt) => (await greedy(model, { rows: [prompt], side: 'left', pad: job.eos[0] }))[0];
const all = async () => {
  const answers = [];
  for (const prompt of job.prompts) answers.push(await one(prompt));
  return answers;
};
const answer = { runtime: 'transformers.js', version: env.version, greedy: failed ? model : await said(all), batches: [] };
for (const batch of job.batches) answer.batches.push(failed ? model : await said(() => greedy(model, batch)));
fs.writeSync(1, JSON.stringify(answer));
process.exit(0);
