/**
 * Structured answers of the shipped model: as many random schemas as asked for, each filled once and checked by a validator that is
 * not ours. The last line is JSON.
 *
 *     npm run bench -- structured [--count 1000] [--max-tokens 400]
 */
import { parseArgs } from 'node:util';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { ask, serveNano } from '../cpu/engine/nano-service.ts';
import { randomSchema } from '../fixtures/random-schemas.ts';

const { values } = parseArgs({
  options: { count: { type: 'string', default: '1000' }, 'max-tokens': { type: 'string', default: '400' } },
});
const count = Number(values.count);
const maxTokens = Number(values['max-tokens']);
const ajv = new Ajv2020({ strict: false, validateFormats: false, logger: false });
const nano = await serveNano();
const result = { schemas: count, valid: 0, invalid: 0, cutOff: 0, refused: 0, tokens: 0, seconds: 0 };
const start = performance.now();

async function fill(seed: number): Promise<void> {
  const schema = randomSchema(seed);
  const constraint = { param: 'schema', spec: { type: 'json_schema' as const, schema } };
  // Greedy answers, and drawn ones that wander further.
  const sampling = { constraint, maxTokens, temperature: seed % 2 === 0 ? 0 : 1, seed };
  try {
    const { choices, usage } = await nano.tell(ask(`Answer in JSON (${schema.title}).`, sampling));
    const { text, reason } = choices[0]!;
    result.tokens += usage!.completionTokens;
    if (reason !== 'stop') {
      result.cutOff++;
      console.error(`schema ${seed} was cut off: ${text.slice(0, 200)}`);
    } else if (ajv.compile(schema)(JSON.parse(text))) result.valid++;
    else {
      result.invalid++;
      console.error(`schema ${seed} is not met: ${JSON.stringify(schema)} by ${text}`);
    }
  } catch (error) {
    result.refused++;
    console.error(`schema ${seed} failed: ${error instanceof Error ? error.message : String(error)}`);
  }
}

let next = 0;
await Promise.all(
  Array.from({ length: 16 }, async () => {
    while (next < count) await fill(next++);
  }),
);
result.seconds = Math.round((performance.now() - start) / 1000);
await nano.close();
console.log(JSON.stringify({ bench: 'structured', ...result }));
if (result.valid < count) process.exitCode = 1;
