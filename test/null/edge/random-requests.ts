/** Chat requests that are right, nearly right, or far from it. */
import fc from 'fast-check';

const oddValue = fc.oneof(
  fc.constantFrom<unknown>(
    null,
    true,
    '',
    0,
    -1,
    1.5,
    2 ** 53,
    1e308,
    Number.POSITIVE_INFINITY,
    [],
    {},
    [[]],
    '\ud800',
    'x'.repeat(600),
  ),
  fc.jsonValue({ maxDepth: 2 }),
);
const text = fc.record({ type: fc.constant('text'), text: fc.string() });
const image = fc.record({ type: fc.constant('image_url'), image_url: fc.record({ url: fc.string() }) });
const part = fc.oneof(
  { weight: 6, arbitrary: text },
  { weight: 3, arbitrary: image },
  oddValue,
  mangled(text),
  mangled(image),
);
const content = fc.oneof(
  { weight: 4, arbitrary: fc.string() },
  { weight: 4, arbitrary: fc.array(part, { maxLength: 4 }) },
  oddValue,
);
const message = fc.record({ role: fc.constantFrom('user', 'assistant', 'system', 'developer'), content });
const fields = {
  temperature: fc.constantFrom<unknown>(0, 1, 2, null),
  top_p: fc.constantFrom<unknown>(0, 0.5, 1, null),
  max_tokens: fc.constantFrom<unknown>(1, 16, null),
  stop: fc.oneof(fc.constantFrom<unknown>('a', ['a', 'b'], null), fc.array(fc.string(), { maxLength: 6 })),
  logit_bias: fc.dictionary(fc.nat(400).map(String), fc.double({ min: -100, max: 100, noNaN: true }), { maxKeys: 4 }),
  response_format: fc.constantFrom<unknown>({ type: 'text' }, { type: 'json_object' }, { type: 'json_schema' }),
  metadata: fc.dictionary(fc.string(), fc.string(), { maxKeys: 18 }),
  stream: fc.boolean(),
};
const request = fc.record(
  {
    model: fc.constantFrom('m', 'n'),
    messages: fc.array(fc.oneof({ weight: 8, arbitrary: message }, mangled(message)), { minLength: 1, maxLength: 3 }),
    ...fields,
  },
  { requiredKeys: ['model', 'messages'] },
);

/** One field wrong, gone or added. */
function mangled(object: fc.Arbitrary<object>): fc.Arbitrary<unknown> {
  return fc
    .tuple(object, fc.nat(), oddValue, fc.constantFrom('change', 'drop', 'add'))
    .map(([value, pick, odd, how]) => {
      const keys = Object.keys(value);
      const key = keys[pick % Math.max(keys.length, 1)] ?? 'x';
      if (how === 'add') return { ...value, [`extra_${pick % 3}`]: odd };
      const { [key]: _, ...rest } = value as Record<string, unknown>;
      return how === 'drop' ? rest : { ...rest, [key]: odd };
    });
}

export const chatCase: fc.Arbitrary<unknown> = fc.oneof(
  { weight: 3, arbitrary: request },
  { weight: 5, arbitrary: mangled(request) },
  oddValue,
);
