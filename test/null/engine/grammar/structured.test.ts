import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { ConstraintCompiler, type ConstraintSpec } from '../../../../gpu-backend/engine/grammar/constraint.ts';
import { GrammarError } from '../../../../gpu-backend/engine/grammar/expr.ts';
import type { Writer } from '../../../../gpu-backend/engine/grammar/vocabulary.ts';
import { randomAnswer, tokenizerOf } from './answers.ts';

const WRITERS = (['nano', 'byte-level', 'metaspace', 'unigram'] as const).map((name): [string, Writer] => {
  const tokenizer = tokenizerOf(name);
  return [name, { tokenizer, stopIds: [tokenizer.vocabSize] }];
});
const NANO = WRITERS[0]![1];
const ajv = new Ajv2020({ strict: false, validateFormats: false });

const SCHEMAS: readonly (readonly [string, unknown])[] = [
  ['any value', {}],
  ['null, boolean', { type: ['null', 'boolean'] }],
  ['integer', { type: 'integer' }],
  ['integer range', { type: 'integer', minimum: -17, exclusiveMaximum: 1203 }],
  ['integer from below', { type: 'integer', maximum: -5 }],
  ['multiples', { type: 'integer', multipleOf: 7, minimum: -100, maximum: 1000 }],
  ['number', { type: 'number' }],
  ['number range', { type: 'number', minimum: -1.25, maximum: 3.5 }],
  ['narrow number', { type: 'number', exclusiveMinimum: 0.1, exclusiveMaximum: 0.11 }],
  ['lengths', { type: 'string', minLength: 3, maxLength: 6 }],
  ['pattern', { type: 'string', pattern: '^[A-Z]{2}-\\d+$' }],
  ['pattern anywhere', { type: 'string', pattern: 'a"\\\\', maxLength: 8 }],
  ['enum', { enum: ['red', 'grün', 3, null, { a: [1] }] }],
  ['const', { const: 'ähm "quoted" \\ \u0001' }],
  ['array', { type: 'array', items: { type: 'boolean' }, minItems: 2, maxItems: 4 }],
  ['tuple', { type: 'array', prefixItems: [{ type: 'integer' }, { type: 'string' }], items: false, minItems: 1 }],
  ['tuple and more', { type: 'array', prefixItems: [{ type: 'integer' }], items: { type: 'null' }, minItems: 3 }],
  ['empty', { type: 'array', maxItems: 0 }],
  [
    'object',
    {
      type: 'object',
      properties: { a: { type: 'integer' }, b: { type: 'string' }, c: { type: 'boolean' } },
      required: ['b'],
      additionalProperties: false,
    },
  ],
  ['all optional', { type: 'object', properties: { a: { type: 'null' }, b: { type: 'null' } }, minProperties: 1 }],
  ['few', { type: 'object', properties: { a: {}, b: {}, c: {} }, maxProperties: 2, additionalProperties: false }],
  ['map', { type: 'object', additionalProperties: { type: 'integer' } }],
  [
    'declared and more',
    { type: 'object', properties: { ab: { type: 'boolean' } }, additionalProperties: { type: 'integer' } },
  ],
  ['required, undeclared', { type: 'object', required: ['x"y'] }],
  [
    'anyOf',
    {
      anyOf: [
        { type: 'string', maxLength: 3 },
        { type: 'object', properties: { a: { const: 1 } } },
      ],
    },
  ],
  [
    'oneOf by constant',
    {
      oneOf: [
        { type: 'object', properties: { kind: { const: 'a' }, x: { type: 'integer' } }, required: ['kind', 'x'] },
        { type: 'object', properties: { kind: { const: 'b' }, y: { type: 'string' } }, required: ['kind'] },
      ],
    },
  ],
  [
    'allOf',
    {
      type: 'object',
      allOf: [
        { properties: { a: { type: 'number' } }, required: ['a'] },
        { properties: { a: { minimum: 2, maximum: 9 }, b: { type: 'boolean' } }, required: ['b'] },
      ],
    },
  ],
  [
    'recursive',
    {
      $ref: '#/$defs/node',
      $defs: {
        node: {
          type: 'object',
          properties: { value: { type: 'integer' }, children: { type: 'array', items: { $ref: '#/$defs/node' } } },
          required: ['value', 'children'],
          additionalProperties: false,
        },
      },
    },
  ],
];

describe('answers under a JSON schema', () => {
  for (const [name, schema] of SCHEMAS)
    it(`${name}: every answer is whole and valid, with every kind of tokenizer`, () => {
      const validate = ajv.compile(schema as object);
      for (const [kind, writer] of WRITERS)
        for (let seed = 0; seed < 12; seed++) {
          const { text, isWhole } = randomAnswer({ type: 'json_schema', schema }, writer, seed, 120);
          assert.ok(isWhole, `${kind}, seed ${seed}: not whole: ${text}`);
          const value: unknown = JSON.parse(text);
          assert.ok(validate(value), `${kind}, seed ${seed}: ${text} ${JSON.stringify(validate.errors)}`);
        }
    });

  it('formats look like what they name', () => {
    const looks: Record<string, (text: string) => boolean> = {
      'date-time': (text) => !Number.isNaN(Date.parse(text)),
      date: (text) => !Number.isNaN(Date.parse(text)),
      time: (text) => /^\d\d:\d\d:\d\d/.test(text),
      uuid: (text) => /^[0-9a-f-]{36}$/.test(text),
      ipv4: (text) => text.split('.').every((part) => Number(part) < 256),
      ipv6: (text) => URL.canParse(`http://[${text}]/`),
      email: (text) => /^[^@\s]+@[^@\s]+\.[^@\s]+$/.test(text),
      hostname: (text) => URL.canParse(`http://${text}/`) || /^\d/.test(text),
      uri: (text) => URL.canParse(text) || /\/\/\d/.test(text),
      duration: (text) => /^P\d|^PT\d/.test(text),
    };
    for (const [format, fits] of Object.entries(looks))
      for (let seed = 0; seed < 8; seed++) {
        const { text } = randomAnswer({ type: 'json_schema', schema: { type: 'string', format } }, NANO, seed);
        assert.ok(fits(JSON.parse(text)), `${format}: ${text}`);
      }
  });

  it('near the limit the answer is closed, and without room it ends by length', () => {
    const schema = { type: 'array', items: { type: 'string' }, minItems: 3 };
    const spec: ConstraintSpec = { type: 'json_schema', schema };
    for (let limit = 12; limit < 30; limit++) {
      const { text, ids, isWhole } = randomAnswer(spec, NANO, limit, limit);
      assert.ok(isWhole && ids.length <= limit, text);
      JSON.parse(text);
    }
    assert.equal(randomAnswer(spec, NANO, 1, 4).isWhole, false);
  });
});

describe('other constraints', () => {
  it('json_object: objects of any shape', () => {
    for (const [, writer] of WRITERS)
      for (let seed = 0; seed < 20; seed++) {
        const value: unknown = JSON.parse(randomAnswer({ type: 'json_object' }, writer, seed, 90).text);
        assert.ok(typeof value === 'object' && value !== null && !Array.isArray(value));
      }
  });
  it('choice: one of them, also where one begins another', () => {
    const choices = ['yes', 'yes, but', 'no', 'größer', '象'];
    const seen = new Set<string>();
    for (const [, writer] of WRITERS.slice(0, 3))
      for (let seed = 0; seed < 40; seed++) seen.add(randomAnswer({ type: 'choice', choices }, writer, seed).text);
    assert.deepEqual([...seen].sort(), [...choices].sort());
  });
  it('regex: the whole answer matches', () => {
    for (const regex of [
      '^(\\d{3}-)+[a-zé象]{2,5}$',
      '(?:ab|a)(c|bcd)?',
      '[^\\x00-\\x7f]{1,3}|\\u{1f600}+',
      'a.b\\.',
      '\\w+\\s\\S*?',
    ])
      for (let seed = 0; seed < 15; seed++) {
        const { text } = randomAnswer({ type: 'regex', regex }, NANO, seed, 40);
        assert.match(text, new RegExp(`^(?:${regex})$`, 'u'));
      }
  });
});

describe('ambiguous schemas', () => {
  it('whose readings double with every level are followed in bounded time', () => {
    const schema = {
      $ref: '#/$defs/n',
      $defs: {
        n: {
          anyOf: [
            { type: 'array', items: { $ref: '#/$defs/n' }, minItems: 1 },
            { type: 'array', items: { anyOf: [{ $ref: '#/$defs/n' }, { type: 'null' }] } },
            { type: 'array', items: { anyOf: [{ $ref: '#/$defs/n' }, { type: 'boolean' }] } },
          ],
        },
      },
    };
    const validate = ajv.compile(schema);
    const start = performance.now();
    for (let seed = 0; seed < 3; seed++) {
      const { text } = randomAnswer({ type: 'json_schema', schema }, NANO, seed, 150);
      assert.ok(validate(JSON.parse(text)), text);
    }
    assert.ok(performance.now() - start < 20_000);
  });
});

describe('what is refused', () => {
  const refusal = (spec: ConstraintSpec): GrammarError => {
    try {
      new ConstraintCompiler().compile(spec, NANO, 'schema');
    } catch (error) {
      if (error instanceof GrammarError) return error;
      throw error;
    }
    throw new Error('expected a refusal');
  };
  const schema = (value: unknown): ConstraintSpec => ({ type: 'json_schema', schema: value });

  it('keywords that are not understood, by path and name', () => {
    for (const keyword of ['not', 'if', 'patternProperties', 'uniqueItems', 'contains', 'dependentRequired', 'foo']) {
      const error = refusal(schema({ type: 'object', properties: { a: { [keyword]: {} } } }));
      assert.equal(error.reason, 'unsupported');
      assert.equal(error.path, `schema.properties.a.${keyword}`);
      assert.ok(error.message.includes(keyword));
    }
    assert.equal(refusal(schema({ type: 'string', format: 'iri' })).path, 'schema.format');
    assert.equal(refusal(schema({ oneOf: [{ type: 'integer' }, { type: 'number' }] })).path, 'schema.oneOf');
    assert.equal(refusal(schema({ enum: ['ab'], minLength: 1 })).path, 'schema.minLength');
  });
  it('keywords with values they do not take', () => {
    assert.match(refusal(schema({ type: 'text' })).message, /type: expected one or several of null, .* got "text"/);
    assert.match(refusal(schema({ minItems: -1 })).message, /expected a whole number/);
    assert.match(refusal(schema({ properties: { a: 3 } })).message, /expected a schema/);
    assert.match(refusal(schema('x')).message, /expected a schema/);
  });
  it('schemas that nothing fits', () => {
    for (const value of [
      { $ref: '#' },
      { type: 'object', properties: { a: { $ref: '#' } }, required: ['a'] },
      { type: 'integer', minimum: 3, maximum: 2 },
      { type: 'string', minLength: 3, maxLength: 2 },
      { type: 'string', pattern: '^a$', minLength: 2 },
      { type: 'object', required: ['a'], additionalProperties: false },
      { type: 'array', items: false, minItems: 1 },
      { type: 'string', enum: [1] },
      false,
    ])
      assert.equal(refusal(schema(value)).reason, 'invalid', JSON.stringify(value));
  });
  it('regular expressions that are not regular, and what is none', () => {
    for (const regex of ['(?=a)b', '(?<!a)b', '(a)\\1', '\\bword', 'a^b', '\\p{L}'])
      assert.equal(refusal({ type: 'regex', regex }).reason, 'unsupported', regex);
    for (const regex of ['(', '[b-a]', 'a{2,1}', '*'])
      assert.equal(refusal({ type: 'regex', regex }).reason, 'invalid', regex);
  });
  it('hostile constraints, in bounded time', () => {
    let deep: unknown = { type: 'string' };
    for (let n = 0; n < 20_000; n++) deep = { items: deep };
    const fanOut: Record<string, unknown> = { d0: { type: 'string' } };
    for (let n = 1; n < 40; n++)
      fanOut[`d${n}`] = { anyOf: [{ $ref: `#/$defs/d${n - 1}` }, { $ref: `#/$defs/d${n - 1}` }] };
    const wide = Object.fromEntries(Array.from({ length: 4000 }, (_, n) => [`p${n}`, { type: 'integer' }]));
    const hostile: ConstraintSpec[] = [
      schema(deep),
      schema({ $ref: '#/$defs/d39', $defs: fanOut }),
      schema({ type: 'object', properties: wide }),
      schema({ enum: Array.from({ length: 30_000 }, (_, n) => `${n}${'x'.repeat(40)}`) }),
      schema({ type: 'string', pattern: '(a|aa)*b(a|b){900}', maxLength: 4000 }),
      schema({ type: 'array', items: { type: 'string', maxLength: 4096 }, maxItems: 1e9 }),
      { type: 'regex', regex: '(a|b)*a(a|b){1000}' },
      { type: 'regex', regex: `${'(a{0,99}){0,99}'.repeat(5)}` },
      { type: 'regex', regex: '('.repeat(60) + ')'.repeat(60) },
    ];
    for (const spec of hostile) {
      // Of the processor: a machine that is busy with other things makes no constraint hostile.
      const before = process.cpuUsage();
      const { message } = refusal(spec);
      const { user, system } = process.cpuUsage(before);
      const ms = (user + system) / 1000;
      assert.ok(ms < 3_000, `${message}: took ${ms.toFixed(0)} ms`);
      assert.match(message, /expected|too complex/);
    }
  });
});
