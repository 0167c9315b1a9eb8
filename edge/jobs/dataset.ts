/** Validates a training file before a job exists: every line, every field, every picture's header. */
import { DatasetLine } from '../../shared/contract/datasets.ts';
import { ApiError, type Violation, violation, violationsOf } from '../../shared/contract/errors.ts';
import type { ImageInfo } from '../../shared/contract/images.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { imageTokens, type ModelCard } from '../../shared/contract/models.ts';
import { checkPlaces, checkTokens, imageReferences } from '../chat/prompt.ts';
import { checkImage } from '../images/check.ts';
import { parseDataUrl } from '../images/dataUrl.ts';
import { type ImageReference, type ImageStore, resolveImages } from '../images/resolve.ts';
import { type Line, splitLines } from './lines.ts';

const D = LIMITS.dataset;

/** What a picture's header says, or everything that is wrong with it. */
type Verdict = ImageInfo | Violation[];

/**
 * Reads the whole file and counts its examples.
 * @param field `training_file` or `validation_file`: what the error is about.
 * @throws ApiError `invalid_training_file` whose message and details name line and field.
 */
export async function validateDataset(
  body: ReadableStream<Uint8Array>,
  field: 'training_file' | 'validation_file',
  card: ModelCard,
  store: ImageStore,
): Promise<number> {
  const verdicts = new Map<string, Verdict>();
  const wrong: Violation[] = [];
  let examples = 0;
  for await (const line of splitLines(body, D.maxLineBytes)) {
    if (line.bytes?.every((byte) => byte === 0x20 || byte === 0x09)) continue;
    examples++;
    if (examples > D.maxLines) {
      wrong.push({
        ...violation('invalid_training_file', null, { expected: `at most ${D.maxLines} examples`, received: 'more' }),
        line: line.number,
      });
      break;
    }
    const problems = await checkLine(line, card, store, verdicts);
    wrong.push(...problems.map((problem) => ({ ...problem, line: line.number })));
    if (wrong.length >= D.maxReportedErrors) break;
  }
  if (examples === 0)
    wrong.push(violation('invalid_training_file', null, { expected: 'at least 1 example', received: 'an empty file' }));
  const first = wrong[0];
  if (first === undefined) return examples;
  const where = first.line === undefined ? field : `${field} line ${first.line}`;
  const lines = new Set(wrong.map(({ line }) => line)).size;
  const more = wrong.length > 1 ? ` (${wrong.length} problems in ${lines} lines, see error.details)` : '';
  throw new ApiError('invalid_training_file', `${where}, ${first.message}${more}`, {
    param: field,
    details: wrong.slice(0, D.maxReportedErrors),
  });
}

async function checkLine(
  { bytes }: Line,
  card: ModelCard,
  store: ImageStore,
  verdicts: Map<string, Verdict>,
): Promise<Violation[]> {
  if (bytes === null)
    return [
      violation('invalid_training_file', null, {
        expected: `lines of at most ${D.maxLineBytes} bytes`,
        received: 'a longer one',
      }),
    ];
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(bytes));
  } catch (error) {
    const reason = error instanceof SyntaxError ? error.message : 'not UTF-8';
    return [
      violation('invalid_json', null, {
        expected: 'one JSON object a line',
        received: `text that is not JSON (${reason})`,
      }),
    ];
  }
  const parsed = DatasetLine.safeParse(value);
  if (!parsed.success) return violationsOf(parsed.error.issues, value);
  const { messages } = parsed.data;
  const wrong = checkPlaces({ messages });
  if (messages.at(-1)?.role !== 'assistant') {
    wrong.push(
      violation('invalid_value', `messages[${messages.length - 1}].role`, {
        expected: '"assistant" in the last message, which is what is learned',
        received: `"${messages.at(-1)?.role}"`,
      }),
    );
  }
  const references = imageReferences({ messages });
  wrong.push(...checkCount(references, card));
  if (wrong.length > 0) return wrong;
  const tokens: number[] = [];
  for (const reference of references) {
    const verdict = await checkReference(reference, store, verdicts);
    if (Array.isArray(verdict)) wrong.push(...verdict);
    else tokens.push(imageTokens(card, verdict));
  }
  return wrong.length > 0 ? wrong : checkTokens(tokens, { card, id: card.id });
}

function checkCount(references: readonly ImageReference[], card: ModelCard): Violation[] {
  const limit = Math.min(card.maxImages, D.maxImagesPerExample);
  const over = references[limit];
  if (over !== undefined) {
    return [
      violation('too_many_images', over.param, {
        expected: `at most ${limit} images an example for ${card.id}`,
        received: references.length,
      }),
    ];
  }
  // Where all take the same, nothing is opened to find that they are too many.
  const tokens = card.imageGrid === undefined ? references.map(() => card.tokensPerImage) : [];
  return checkTokens(tokens, { card, id: card.id });
}

/** A data URL is checked where it stands; an uploaded file once, however many lines name it. */
async function checkReference(
  { param, url }: ImageReference,
  store: ImageStore,
  verdicts: Map<string, Verdict>,
): Promise<Verdict> {
  if (url.startsWith('data:')) {
    try {
      const { mime, bytes } = parseDataUrl(url, param);
      return checkImage(bytes, mime, param);
    } catch (error) {
      if (error instanceof ApiError) return [{ code: error.code, param, message: error.message }];
      throw error;
    }
  }
  let verdict = verdicts.get(url);
  if (verdict === undefined) {
    const [found, ...more] = await resolveImages([{ param: '', url }], store);
    if (found === undefined) throw new Error('checkReference: a picture was neither found nor refused');
    verdict = 'digest' in found ? found.info : [found, ...more.flatMap((item) => ('code' in item ? [item] : []))];
    verdicts.set(url, verdict);
  }
  if (!Array.isArray(verdict)) return verdict;
  return verdict.map((problem) => ({ ...problem, param, message: `${param}${problem.message}` }));
}
