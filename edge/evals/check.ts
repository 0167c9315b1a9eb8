/** What is wrong with an evaluation or a run beyond its shape. Pure. */
import { describe, fieldPath, type Violation, violation } from '../../shared/contract/errors.ts';
import type { BenchmarkRunSource } from '../../shared/contract/evalBenchmarks.ts';
import { FormulaError, parseFormula } from '../../shared/contract/evalFormula.ts';
import { ANSWER_FIELD_NAMES, referencesOf, strangerToAnswers, Unseen } from '../../shared/contract/evalReferences.ts';
import type {
  CreateEvalRequest,
  EvalLine,
  EvalMessage,
  EvalPart,
  Grader,
  InputMessages,
  SimpleGrader,
} from '../../shared/contract/evals.ts';
import { parseTemplate, TemplateError, type TemplateRoot } from '../../shared/contract/evalTemplate.ts';
import { schemaMismatch, schemaProblems } from '../../shared/contract/jsonSchema.ts';
import { LIMITS } from '../../shared/contract/limits.ts';

type Path = readonly (string | number)[];

const E = LIMITS.evals;

/** Models that the graders of an evaluation ask, with the field that names each. */
export function judgesOf(
  criteria: readonly Grader[],
  at: Path = ['testing_criteria'],
): { model: string; param: string }[] {
  return criteria.flatMap((grader, i) => {
    if (grader.type !== 'multi') return judgeOf(grader, [...at, i]);
    return Object.entries(grader.graders).flatMap(([name, inner]) => judgeOf(inner, [...at, i, 'graders', name]));
  });
}

function judgeOf(grader: SimpleGrader, at: Path): { model: string; param: string }[] {
  if (grader.type !== 'label_model' && grader.type !== 'score_model') return [];
  return [{ model: grader.model, param: fieldPath([...at, 'model']) }];
}

export function checkEval({ data_source_config: source, testing_criteria: criteria }: CreateEvalRequest): Violation[] {
  const found: Violation[] = [];
  if (source.type === 'custom') {
    const size = JSON.stringify(source.item_schema).length;
    const param = 'data_source_config.item_schema';
    if (size > E.maxSchemaBytes)
      found.push(
        violation('invalid_value', param, {
          expected: `at most ${E.maxSchemaBytes} characters as JSON`,
          received: size,
        }),
      );
    else
      for (const { path, message } of schemaProblems(source.item_schema, ['data_source_config', 'item_schema']))
        found.push({ code: 'invalid_value', param: path, message: `${path}: ${message}.` });
    if (criteria.length === 0)
      found.push(violation('invalid_value', 'testing_criteria', { expected: 'at least 1 item', received: '0 items' }));
  } else if (criteria.length > 0)
    found.push(
      violation('invalid_value', 'testing_criteria', {
        expected: `none: ${source.benchmark} brings its own parser and score`,
        received: `${criteria.length}`,
      }),
    );
  const names = new Map<string, number>();
  for (const [i, grader] of criteria.entries()) {
    found.push(...checkGrader(grader, ['testing_criteria', i], true));
    const earlier = names.get(grader.name);
    if (earlier !== undefined)
      found.push(
        violation('invalid_value', `testing_criteria[${i}].name`, {
          expected: 'a name of its own: results are told apart by it',
          received: `${describe(grader.name)}, as testing_criteria[${earlier}] has`,
        }),
      );
    else names.set(grader.name, i);
  }
  return found;
}

function checkGrader(grader: Grader, at: Path, isCriterion: boolean): Violation[] {
  const found: Violation[] = [];
  const complain = (field: string, expected: string, received: unknown): void => {
    const code = received === undefined ? 'missing_required_parameter' : 'invalid_value';
    found.push(violation(code, fieldPath([...at, field]), { expected, received: describe(received) }));
  };
  const text = (value: string | undefined, field: string): void => {
    if (value !== undefined) found.push(...checkText(value, [...at, field], ['item', 'sample']));
  };
  switch (grader.type) {
    case 'string_check':
    case 'text_similarity':
      text(grader.input, 'input');
      text(grader.reference, 'reference');
      if (grader.type === 'text_similarity') {
        const threshold = grader.pass_threshold ?? undefined;
        if (isCriterion && threshold === undefined) complain('pass_threshold', 'a number from 0 to 1', undefined);
        else if (threshold !== undefined && !(threshold >= 0 && threshold <= 1))
          complain('pass_threshold', 'a number from 0 to 1', threshold);
      }
      break;
    case 'label_model': {
      found.push(...checkMessages(grader.input, [...at, 'input'], ['item', 'sample']));
      if (new Set(grader.labels).size < grader.labels.length) complain('labels', 'labels that differ', grader.labels);
      const stranger = grader.passing_labels.find((label) => !grader.labels.includes(label));
      if (stranger !== undefined) complain('passing_labels', 'some of the labels', stranger);
      break;
    }
    case 'score_model': {
      found.push(...checkMessages(grader.input, [...at, 'input'], ['item', 'sample']));
      const [least, most] = grader.range ?? [0, 1];
      if (!(least < most)) complain('range', 'a smaller and a larger number', `${least}, ${most}`);
      const threshold = grader.pass_threshold;
      if (threshold != null && !(threshold >= least && threshold <= most))
        complain('pass_threshold', `a number from ${least} to ${most}`, threshold);
      break;
    }
    case 'mantis.benchmark': {
      const { benchmark, input, question, options, answers, category, fields } = grader;
      if (benchmark === 'skills') complain('benchmark', 'a benchmark that is read from files', benchmark);
      for (const [field, value] of Object.entries({ input, question, options, answers, category })) text(value, field);
      for (const [name, value] of Object.entries(fields ?? {}))
        found.push(...checkText(value, [...at, 'fields', name], ['item', 'sample']));
      break;
    }
    case 'multi': {
      const names = Object.keys(grader.graders);
      if (names.length === 0 || names.length > E.maxFormulaGraders)
        complain('graders', `1 to ${E.maxFormulaGraders} graders`, names.length);
      for (const [name, inner] of Object.entries(grader.graders))
        found.push(...checkGrader(inner, [...at, 'graders', name], false));
      try {
        parseFormula(grader.calculate_output, names);
      } catch (error) {
        if (!(error instanceof FormulaError)) throw error;
        const param = fieldPath([...at, 'calculate_output']);
        found.push({ code: 'invalid_value', param, message: `${param}: ${error.message}.` });
      }
      break;
    }
  }
  return found;
}

/** @param roots what the templates may look into: before an answer there is no sample */
export function checkMessages(messages: readonly EvalMessage[], at: Path, roots: readonly TemplateRoot[]): Violation[] {
  return messages.flatMap(({ content, role }, m) => {
    const parts = Array.isArray(content) ? content : [content];
    const base = [...at, m, 'content'];
    return parts.flatMap((part, p) => checkPart(part, Array.isArray(content) ? [...base, p] : base, role, roots));
  });
}

function checkPart(part: string | EvalPart, at: Path, role: string, roots: readonly TemplateRoot[]): Violation[] {
  if (typeof part === 'string') return checkText(part, at, roots);
  if (part.type === 'input_text' || part.type === 'output_text' || part.type === 'text')
    return checkText(part.text, [...at, 'text'], roots);
  if (role !== 'user')
    return [
      violation('image_not_allowed_here', fieldPath(at), {
        expected: 'pictures in messages of role "user" only',
        received: `one in a message of role "${role}"`,
      }),
    ];
  if (part.type === 'input_image') {
    const { image_url: url, file_id: file } = part;
    if (url != null && file == null) return checkText(url, [...at, 'image_url'], roots);
    if (file != null && url == null) return checkText(file, [...at, 'file_id'], roots);
    return [
      violation('invalid_value', fieldPath(at), {
        expected: 'image_url or file_id',
        received: url == null ? 'neither' : 'both',
      }),
    ];
  }
  if (part.type === 'image_url') return checkText(part.image_url.url, [...at, 'image_url', 'url'], roots);
  if (part.type === 'image_file') return checkText(part.image_file.file_id, [...at, 'image_file', 'file_id'], roots);
  return checkText(part.image_urls, [...at, 'image_urls'], roots);
}

function checkText(text: string, at: Path, roots: readonly TemplateRoot[]): Violation[] {
  try {
    parseTemplate(text, roots);
    return [];
  } catch (error) {
    if (!(error instanceof TemplateError)) throw error;
    const param = fieldPath(at);
    return [{ code: 'invalid_value', param, message: `${param}: ${error.message}.` }];
  }
}

export function checkPrompt(prompt: InputMessages): Violation[] {
  if (prompt.type === 'item_reference') return [];
  return checkMessages(prompt.template, ['data_source', 'input_messages', 'template'], ['item']);
}

/** What a benchmark cannot be asked, as far as it is known without its files. */
export function checkBenchmark(
  benchmark: string,
  { file_ids: ids = [], skills, split, sample, max_items: first }: BenchmarkRunSource,
): Violation[] {
  const isMade = benchmark === 'skills';
  const found: Violation[] = [];
  const complain = (field: string, expected: string, received: string): void => {
    found.push(violation('invalid_value', `data_source.${field}`, { expected, received }));
  };
  if (isMade && ids.length > 0) complain('file_ids', 'none: skills makes its own questions', `${ids.length}`);
  if (isMade && split !== undefined) complain('split', 'none: skills makes its own questions', describe(split));
  if (!isMade && ids.length === 0)
    found.push(
      violation('missing_required_parameter', 'data_source.file_ids', {
        expected: `the files of ${benchmark} as they were published, uploaded with the purpose "evals"`,
        received: 'none',
      }),
    );
  if (sample !== undefined && first !== undefined)
    complain('sample', 'either the first records (max_items) or a sample of all', 'both');
  if (!isMade && skills !== undefined) complain('skills', `none: ${benchmark} is read from files`, 'an object');
  return found;
}

/** Lines that came with the request, against the schema of items. */
export function checkContent(
  lines: readonly EvalLine[],
  schema: Record<string, unknown>,
  needsSample: boolean,
): Violation[] {
  const found: Violation[] = [];
  for (const [i, { item, sample }] of lines.entries()) {
    const at = `data_source.source.content[${i}]`;
    const wrong = schemaMismatch(schema, item, 'item');
    if (wrong !== null)
      found.push({
        code: 'invalid_value',
        param: `${at}.${wrong.path}`,
        message: `${at}.${wrong.path}: ${wrong.message}.`,
      });
    if (needsSample && typeof sample?.output_text !== 'string')
      found.push(
        violation('missing_required_parameter', `${at}.sample${sample == null ? '' : '.output_text'}`, {
          expected: sample == null ? 'the answer that is judged' : 'its text',
          received: describe(sample?.output_text),
        }),
      );
  }
  return found;
}

/**
 * References that can stand for nothing: to what answers never have, and, of lines that are at hand, to what none of them has.
 * @param content null: the lines are in a file, which the backend looks through before it asks anything
 */
export function checkReferences(
  criteria: readonly Grader[],
  prompt: InputMessages | null,
  content: readonly EvalLine[] | null,
  hasSample: boolean,
): Violation[] {
  const references = referencesOf(criteria, prompt);
  const stranger = hasSample ? null : strangerToAnswers(references);
  if (stranger !== null)
    return [
      violation('invalid_value', stranger.param, {
        expected: `fields of an answer (${ANSWER_FIELD_NAMES})`,
        received: stranger.source,
      }),
    ];
  if (content === null) return [];
  const unseen = new Unseen(references, hasSample ? ['item', 'sample'] : ['item']);
  for (const { item, sample } of content) unseen.see({ item, sample: sample ?? {} });
  return unseen
    .problems()
    .map(({ param, message }) => ({ code: 'invalid_value', param, message: `${param}: ${message}.` }));
}

/** Bytes of a line as JSON, pictures in data URLs not counted. */
export function lineBytes(line: unknown): number {
  const text = JSON.stringify(line, (_, value: unknown) =>
    typeof value === 'string' && value.startsWith('data:image/') ? '' : value,
  );
  return new TextEncoder().encode(text).length;
}
