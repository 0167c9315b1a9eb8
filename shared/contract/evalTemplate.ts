/**
 * Templates of evaluations: text with `{{item.question}}` and `{{sample.output_text}}` in it. They look up, and do nothing else: there is no logic, no call
 * and no second pass, so that what an item holds is never read as a template itself.
 */
import { LIMITS } from './limits.ts';

/** What a template may look into. */
export type TemplateRoot = 'item' | 'sample';

/** `source` as it was written. */
export type TemplateReference = {
  readonly root: TemplateRoot;
  readonly path: readonly (string | number)[];
  readonly source: string;
};

type Piece = string | TemplateReference;

export type Template = { readonly pieces: readonly Piece[] };

/** What JSON holds. */
export type TemplateData = { readonly item: unknown; readonly sample?: unknown };

/** A template that is none; the message says where and what would be one. */
export class TemplateError extends Error {
  override readonly name = 'TemplateError';
}

/** A template names something that an item does not have. */
export class MissingValue extends Error {
  override readonly name = 'MissingValue';
}

const REFERENCE =
  /^\s*(item|sample)((?:\s*\.\s*[\p{L}\p{N}_$-]+|\s*\[\s*(?:\d{1,9}|"[^"\\]{1,256}"|'[^'\\]{1,256}')\s*\])*)\s*$/u;
const STEP = /\.\s*([\p{L}\p{N}_$-]+)|\[\s*(?:(\d{1,9})|"([^"\\]{1,256})"|'([^'\\]{1,256})')\s*\]/gu;

/**
 * @param roots what may be looked into here: a prompt has no `sample` yet
 * @throws TemplateError
 */
export function parseTemplate(text: string, roots: readonly TemplateRoot[] = ['item', 'sample']): Template {
  const pieces: Piece[] = [];
  let at = 0;
  for (;;) {
    const open = text.indexOf('{{', at);
    if (open < 0) break;
    const close = text.indexOf('}}', open + 2);
    const source = close < 0 ? text.slice(open, open + 40) : text.slice(open, close + 2);
    const inner = close < 0 ? null : REFERENCE.exec(text.slice(open + 2, close));
    const root = inner?.[1] as TemplateRoot | undefined;
    if (root === undefined || close < 0)
      throw new TemplateError(
        `expected {{item.field}}${roots.includes('sample') ? ' or {{sample.field}}' : ''}, received ${JSON.stringify(source.slice(0, 60))}`,
      );
    if (!roots.includes(root))
      throw new TemplateError(
        `expected {{${roots.join('.…}} or {{')}.…}}, received ${JSON.stringify(source.slice(0, 60))}: there is no sample yet`,
      );
    if (open > at) pieces.push(text.slice(at, open));
    const path = [...(inner?.[2] ?? '').matchAll(STEP)].map(([, name, index, double, single]) =>
      index === undefined ? (name ?? double ?? single ?? '') : Number(index),
    );
    pieces.push({ root, path, source });
    at = close + 2;
  }
  if (at < text.length || pieces.length === 0) pieces.push(text.slice(at));
  if (pieces.length > LIMITS.evals.maxTemplatePieces)
    throw new TemplateError(`expected at most ${LIMITS.evals.maxTemplatePieces} pieces, received ${pieces.length}`);
  return { pieces };
}

/** A template that is one reference and nothing else stands for the value itself, whatever it is. */
export function templateValue(template: Template, data: TemplateData): unknown {
  const [only] = template.pieces;
  if (template.pieces.length === 1 && only !== undefined && typeof only !== 'string') return lookUp(only, data);
  return renderTemplate(template, data);
}

/**
 * Strings stand as they are, everything else as JSON.
 * @throws MissingValue
 */
export function renderTemplate(template: Template, data: TemplateData): string {
  let text = '';
  for (const piece of template.pieces) {
    text += typeof piece === 'string' ? piece : asText(lookUp(piece, data));
    if (text.length > LIMITS.request.maxTotalTextChars)
      throw new MissingValue(
        `expected at most ${LIMITS.request.maxTotalTextChars} characters once it is filled in, received more`,
      );
  }
  return text;
}

function asText(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

function lookUp(reference: TemplateReference, data: TemplateData): unknown {
  const value = valueAt(reference, data);
  if (value !== undefined) return value;
  const { source, root, path } = reference;
  const isJson = root === 'sample' && path[0] === 'output_json';
  throw new MissingValue(
    isJson && valueAt({ root, path: ['output_json'], source }, data) === undefined
      ? `${source}: the answer is not JSON; sampling_params.response_format (of \`responses\`: text.format) makes it so`
      : `${source}: the ${root} has no such field`,
  );
}

/** What a reference stands for; undefined where there is nothing. */
export function valueAt({ root, path }: TemplateReference, data: TemplateData): unknown {
  let value: unknown = data[root];
  for (const step of path) {
    const isThere = typeof value === 'object' && value !== null && Object.hasOwn(value, step);
    // Lists have elements only.
    const has = isThere && (!Array.isArray(value) || /^\d+$/.test(String(step)));
    value = has ? (value as Record<PropertyKey, unknown>)[step] : undefined;
    if (value === undefined) break;
  }
  return value;
}
