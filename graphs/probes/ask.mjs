// Asks the probes of one of ONNX Runtime's packages for JavaScript: {NAME: [number, …] of output y, or why there are none}.

const ARRAYS = { float32: Float32Array, float16: Uint16Array, int64: BigInt64Array, int32: Int32Array, bool: Uint8Array };

const tensor = (ort, { type, dims, data }) => new ort.Tensor(type, ARRAYS[type].from(data, type === 'int64' ? BigInt : Number), dims);

// The number that 16 bits are, where the engine knows no Float16Array.
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

const numbers = ({ type, data }) => Array.from(data, type === 'float16' && data instanceof Uint16Array ? half : Number);

// `open(name)` is a session of that probe.
export async function askEach(ort, probes, open) {
  const answers = {};
  for (const [name, probe] of Object.entries(probes)) {
    try {
      const session = await open(name);
      const feeds = Object.entries(probe.feeds).map(([input, value]) => [input, tensor(ort, value)]);
      answers[name] = numbers((await session.run(Object.fromEntries(feeds))).y);
      await session.release();
    } catch (error) {
      answers[name] = String(error?.message ?? error);
    }
  }
  return answers;
}
