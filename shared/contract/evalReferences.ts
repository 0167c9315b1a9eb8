/** What the templates of a run look up, and what of it no line has: a name that is misspelt is known before anything is asked. */
import { fieldPath } from './errors.ts';
import type { EvalMessage, EvalPart, Grader, InputMessages, SimpleGrader } from './evals.ts';
import { parseTemplate, type TemplateData, type TemplateReference, valueAt } from './evalTemplate.ts';

type Path = readonly (string | number)[];

/** A reference and the field of the request that holds it. */
export type NamedReference = TemplateReference & { readonly param: string };

/** What an answer of a model has; answers that were given elsewhere have what their lines say. */
const ANSWER_FIELDS: ReadonlySet<string> = new Set([
  'output_text',
  'output_json',
  'model',
  'output',
  'choices',
  'finish_reason',
  'usage',
]);

/** Every reference of the criteria and the prompt, in their order. */
export function referencesOf(criteria: readonly Grader[], prompt: InputMessages | null): NamedReference[] {
  const at: Path = ['data_source', 'input_messages'];
  const asked =
    prompt === null
      ? []
      : prompt.type === 'template'
        ? inMessages(prompt.template, [...at, 'template'])
        : inText(`{{${prompt.item_reference}}}`, [...at, 'item_reference']);
  return [...asked, ...criteria.flatMap((grader, i) => inGrader(grader, ['testing_criteria', i]))];
}

/** The first reference to something that a model's answer never has. */
export function strangerToAnswers(references: readonly NamedReference[]): NamedReference | null {
  return (
    references.find(
      ({ root, path: [first] }) => root === 'sample' && first !== undefined && !ANSWER_FIELDS.has(`${first}`),
    ) ?? null
  );
}

export const ANSWER_FIELD_NAMES = [...ANSWER_FIELDS].join(', ');

/** Finds the references that not a single line has; those that some lack are these lines' own. */
export class Unseen {
  #open: readonly NamedReference[];
  #lines = 0;

  /** @param roots what lines hold: samples only where answers are given */
  constructor(references: readonly NamedReference[], roots: readonly TemplateReference['root'][]) {
    // What an answer holds as JSON is read out of its text.
    this.#open = references.filter(
      ({ root, path: [first] }) => roots.includes(root) && !(root === 'sample' && first === 'output_json'),
    );
  }

  see(data: TemplateData): void {
    this.#lines++;
    if (this.#open.length > 0) this.#open = this.#open.filter((reference) => valueAt(reference, data) === undefined);
  }

  /** What is wrong with each, behind its field. */
  problems(): { readonly param: string; readonly message: string }[] {
    const seen = new Set<string>();
    return this.#open.flatMap(({ param, source, root }) => {
      if (seen.has(param + source)) return [];
      seen.add(param + source);
      const lines = this.#lines === 1 ? 'the only line has no' : `none of the ${this.#lines} lines has an`;
      return [{ param, message: `${source}: ${lines} \`${root}\` with such a field` }];
    });
  }
}

function inGrader(grader: Grader, at: Path): NamedReference[] {
  if (grader.type !== 'multi') return inSimple(grader, at);
  return Object.entries(grader.graders).flatMap(([name, inner]) => inSimple(inner, [...at, 'graders', name]));
}

function inSimple(grader: SimpleGrader, at: Path): NamedReference[] {
  if (grader.type === 'label_model' || grader.type === 'score_model') return inMessages(grader.input, [...at, 'input']);
  if (grader.type !== 'mantis.benchmark')
    return [...inText(grader.input, [...at, 'input']), ...inText(grader.reference, [...at, 'reference'])];
  const { input, question, options, answers, category, fields } = grader;
  return [
    ...Object.entries({ input, question, options, answers, category }).flatMap(([field, text]) =>
      text === undefined ? [] : inText(text, [...at, field]),
    ),
    ...Object.entries(fields ?? {}).flatMap(([name, text]) => inText(text, [...at, 'fields', name])),
  ];
}

function inMessages(messages: readonly EvalMessage[], at: Path): NamedReference[] {
  return messages.flatMap(({ content }, m) =>
    Array.isArray(content)
      ? content.flatMap((part, p) => inText(textOf(part), [...at, m, 'content', p]))
      : inText(textOf(content), [...at, m, 'content']),
  );
}

function textOf(part: string | EvalPart): string {
  if (typeof part === 'string') return part;
  switch (part.type) {
    case 'input_image':
      return part.image_url ?? part.file_id ?? '';
    case 'image_url':
      return part.image_url.url;
    case 'image_file':
      return part.image_file.file_id;
    case 'mantis.images':
      return part.image_urls;
    default:
      return part.text;
  }
}

function inText(text: string, at: Path): NamedReference[] {
  const param = fieldPath([...at]);
  return parseTemplate(text).pieces.flatMap((piece) => (typeof piece === 'string' ? [] : [{ ...piece, param }]));
}
