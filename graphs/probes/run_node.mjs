// onnxruntime-node's side of run.py: run_node.mjs FOLDER, in the Node of QONNX_RUNTIME_NODE.
import { createRequire } from 'node:module';
import fs from 'node:fs';
import { askEach } from './ask.mjs';

const require = createRequire(process.env.QONNX_NODE_MODULES + '/');
const ort = require('onnxruntime-node');
const folder = process.argv[2];
const options = {
  executionProviders: ['cpu'], logSeverityLevel: 4,
  extra: { session: { qdq_matmulnbits_accuracy_level: '0' } },
};
const probes = JSON.parse(fs.readFileSync(`${folder}/probes.json`));
const answers = await askEach(ort, probes, (name) => ort.InferenceSession.create(`${folder}/${name}.onnx`, options));
fs.writeFileSync(1, JSON.stringify({ version: ort.env.versions.node, answers }));
process.exit(0);
