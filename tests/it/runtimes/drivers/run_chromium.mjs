// transformers.js in the Chromium of QONNX_CHROMIUM, without a window: run_chromium.mjs wasm|webgpu. Job and answer: decode.py; with WebGPU, on
// the processor, the answer also has `nodes`, what ran where: {PROVIDER: {OPERATOR: count}}.
//
// Everything is served from this machine: the folder that has the artifact, the library, and page.html.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';

const WAIT_MS = 300_000;
const TYPES = { '.html': 'text/html', '.mjs': 'text/javascript', '.js': 'text/javascript', '.wasm': 'application/wasm', '.json': 'application/json' };
const [device] = process.argv.slice(2);
const job = JSON.parse(fs.readFileSync(0, 'utf8'));
const artifact = path.resolve(job.artifact);
const roots = { page: import.meta.dirname, modules: process.env.QONNX_NODE_MODULES, models: path.dirname(artifact) };
// Threads in wasm need an isolated page.
const headers = { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' };

// GET /ROOT/FILE are files of a root, /job is the job; what is posted is the answer.
function serve(answered) {
  return http.createServer((request, response) => {
    const say = (status, type, body) => response.writeHead(status, { ...headers, 'Content-Type': type }).end(body);
    if (request.method === 'POST') {
      const parts = [];
      request.on('data', (part) => parts.push(part)).on('end', () => answered(Buffer.concat(parts).toString(), say(204, 'text/plain')));
      return;
    }
    if (request.url === '/job') return say(200, TYPES['.json'], JSON.stringify({ ...job, device, model: path.basename(artifact) }));
    const [, root, ...rest] = decodeURIComponent(request.url.split('?')[0]).split('/');
    const file = path.join(roots[root] ?? roots.page, ...rest);
    if (!(root in roots) || rest.includes('..') || !fs.statSync(file, { throwIfNoEntry: false })?.isFile()) return say(404, 'text/plain', '');
    say(200, TYPES[path.extname(file)] ?? 'application/octet-stream', fs.readFileSync(file));
  });
}

// SwiftShader computes what a GPU would.
const gpu = ['--enable-unsafe-webgpu', '--enable-features=Vulkan,WebGPU', '--use-webgpu-adapter=swiftshader', '--use-vulkan=swiftshader', '--use-angle=swiftshader'];

function browse(address, profile) {
  const flags = ['--headless', '--no-sandbox', '--disable-dev-shm-usage', '--no-first-run', '--disable-background-networking'];
  // Its processes may outlive it: none is to hold what a caller reads to the end, all are ended.
  return spawn(process.env.QONNX_CHROMIUM, [...flags, ...(device === 'webgpu' ? gpu : ['--disable-gpu']), `--user-data-dir=${profile}`, address],
    { stdio: 'ignore', detached: true });
}

let browser;
const end = () => browser?.pid && process.kill(-browser.pid, 'SIGKILL');
process.on('SIGTERM', () => { end(); process.exit(1); });
const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'qonnx-chromium-'));
const body = await new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error(`Chromium did not answer in ${WAIT_MS / 1000} s`)), WAIT_MS);
  const server = serve(resolve);
  server.listen(0, '127.0.0.1', () => {
    browser = browse(`http://127.0.0.1:${server.address().port}/page/page.html`, profile);
    browser.on('error', reject);
  });
}).finally(() => {
  end();
  fs.rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
});
fs.writeSync(1, body);
process.exit(0);
