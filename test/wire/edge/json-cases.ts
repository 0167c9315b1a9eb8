/** Bodies that are odd as JSON, and what becomes of them. */
import { gzipSync } from 'node:zlib';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { ask, NANO } from './request-limits.ts';

const R = LIMITS.request;

/** A request that is right, but for its last brace. */
export const base = JSON.stringify(ask('hi')).slice(0, -1);
const utf16 = new Uint8Array(new Uint16Array([...`\ufeff${base}}`].map((letter) => letter.charCodeAt(0))).buffer);
export type Case = {
  name: string;
  body: string | Uint8Array<ArrayBuffer>;
  headers?: Record<string, string>;
  status: number;
  code?: string;
  /** In the message. */
  says?: RegExp;
};
export const JSON_CASES: readonly Case[] = [
  { name: 'nothing', body: '', status: 400, code: 'invalid_json', says: /received an empty body/ },
  { name: 'white space', body: ' \n\t ', status: 400, code: 'invalid_json' },
  { name: 'a byte order mark', body: `\ufeff${base}}`, status: 200 },
  { name: 'UTF-16', body: utf16, status: 400, code: 'invalid_json', says: /received \d+ bytes that are not UTF-8/ },
  { name: 'bytes that are no UTF-8', body: Uint8Array.of(0x22, 0xff, 0x22), status: 400, code: 'invalid_json' },
  {
    name: 'brackets, 100,000 deep',
    body: '['.repeat(100_000) + ']'.repeat(100_000),
    status: 400,
    code: 'invalid_json',
  },
  { name: '20 MiB of brackets', body: '['.repeat(R.maxJsonBytes), status: 400, code: 'invalid_json' },
  { name: 'objects, 100,000 deep', body: '{"a":'.repeat(100_000), status: 400, code: 'invalid_json' },
  {
    name: 'a schema, 100,000 deep',
    body: `${base},"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":${'{"not":'.repeat(100_000)}{}${'}'.repeat(100_000)}}}}`,
    status: 400,
    code: 'invalid_json',
  },
  {
    name: 'a million fields',
    body: `{${Array.from({ length: 1e6 }, (_, i) => `"f${i}":1`).join(',')}}`,
    status: 400,
    code: 'invalid_json',
  },
  {
    name: 'a million messages',
    body: `{"model":"${NANO}","messages":[${'1,'.repeat(1e6)}1]}`,
    status: 400,
    code: 'invalid_json',
  },
  {
    name: '140,000 messages',
    body: `{"model":"${NANO}","messages":[${'1,'.repeat(14e4)}1]}`,
    status: 400,
    code: 'invalid_value',
  },
  { name: 'brackets in a text', body: JSON.stringify(ask('[{'.repeat(100) + '\\"'.repeat(9))), status: 200 },
  { name: 'a name given twice: the last value holds', body: `${base},"temperature":9,"temperature":1}`, status: 200 },
  {
    name: 'a name given twice: the last value is wrong',
    body: `${base},"temperature":1,"temperature":9}`,
    status: 400,
    code: 'invalid_value',
  },
  { name: '__proto__', body: `${base},"__proto__":{"model":"x"}}`, status: 400, code: 'unknown_parameter' },
  {
    name: '__proto__ by escapes',
    body: `${base},"metadata":{"\\u005f_proto__":"x"}}`,
    status: 400,
    code: 'unknown_parameter',
  },
  { name: '__proto__ in a text', body: JSON.stringify(ask('__proto__ \\u005f')), status: 200 },
  {
    name: 'constructor',
    body: `${base},"constructor":{"prototype":{"model":"x"}}}`,
    status: 400,
    code: 'unknown_parameter',
  },
  { name: 'toString', body: `${base},"toString":1}`, status: 400, code: 'unknown_parameter' },
  {
    name: 'a constructor in metadata',
    body: `${base},"metadata":{"constructor":"x","hasOwnProperty":"y"}}`,
    status: 200,
  },
  {
    name: 'half a surrogate pair',
    body: `{"model":"${NANO}","max_tokens":1,"messages":[{"role":"user","content":"\\ud800"}]}`,
    status: 200,
  },
  { name: 'half a surrogate pair as a name', body: `${base},"\\udfff":1}`, status: 400, code: 'unknown_parameter' },
  {
    name: 'a zero byte in a text',
    body: `{"model":"${NANO}","max_tokens":1,"messages":[{"role":"user","content":"\\u0000"}]}`,
    status: 200,
  },
  {
    name: 'a zero byte in a model name',
    body: `{"model":"\\u0000","messages":[{"role":"user","content":"x"}]}`,
    status: 404,
    code: 'model_not_found',
  },
  { name: 'NaN', body: `${base},"temperature":NaN}`, status: 400, code: 'invalid_json' },
  { name: '1e400', body: `${base},"temperature":1e400}`, status: 400, code: 'invalid_type' },
  { name: '-0', body: `${base},"temperature":-0}`, status: 200 },
  { name: 'a huge integer', body: `${base},"seed":123456789012345678901234567890}`, status: 400 },
  { name: 'an integer written as 1e0', body: `${base},"n":1e0}`, status: 200 },
  { name: 'comments', body: `${base}/* x */}`, status: 400, code: 'invalid_json' },
  { name: 'a comma too many', body: `${base},}`, status: 400, code: 'invalid_json' },
  { name: 'single quotes', body: "{'model':'x'}", status: 400, code: 'invalid_json' },
  { name: 'something behind it', body: `${base}} {}`, status: 400, code: 'invalid_json' },
  {
    name: 'another type',
    body: `${base}}`,
    headers: { 'content-type': 'text/plain' },
    status: 415,
    code: 'unsupported_media_type',
  },
  {
    name: 'a type with UTF-8',
    body: `${base}}`,
    headers: { 'content-type': 'Application/JSON; charset="UTF-8"' },
    status: 200,
  },
  {
    name: 'another character set',
    body: `${base}}`,
    headers: { 'content-type': 'application/json; charset=utf-16' },
    status: 415,
    code: 'unsupported_media_type',
  },
  {
    name: 'gzip',
    body: new Uint8Array(gzipSync(`${base}}`)),
    headers: { 'content-encoding': 'gzip' },
    status: 415,
    code: 'unsupported_media_type',
  },
  {
    name: 'gzip that is none',
    body: `${base}}`,
    headers: { 'content-encoding': 'gzip' },
    status: 415,
    code: 'unsupported_media_type',
  },
];
