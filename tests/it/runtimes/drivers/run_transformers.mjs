// transformers.js in Node: AutoModelForCausalLM.from_pretrained(folder), told by the folder alone. Job and answer: decode.py.
import { createRequire } from 'node:module';
import fs from 'node:fs';
import path from 'node:path';
import { answer } from './transformers_job.mjs';

const require = createRequire(process.env.QONNX_NODE_MODULES + '/');
const transformers = require('@huggingface/transformers');
const job = JSON.parse(fs.readFileSync(0, 'utf8'));
const artifact = path.resolve(job.artifact);
transformers.env.allowRemoteModels = false;
transformers.env.localModelPath = path.dirname(artifact) + '/';
// What libraries say goes to stderr: stdout is the answer's.
console.log = console.info = console.warn = console.error;

const load = () => transformers.AutoModelForCausalLM.from_pretrained(path.basename(artifact), { device: 'cpu' });
fs.writeSync(1, JSON.stringify(await answer(transformers, job, load)));
process.exit(0);
