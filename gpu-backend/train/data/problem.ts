import type { DatasetProblem } from '../../../shared/contract/datasets.ts';
import { type Violation, violation } from '../../../shared/contract/errors.ts';
import { type ErrorFacts, errorMessage } from '../../../shared/contract/facts.ts';

/** Collects what is wrong with one record; `errors` decides whether it can be trained on. */
export class RecordProblems {
  errors = 0;

  constructor(
    private readonly emit: (problem: DatasetProblem) => void,
    private readonly where: Pick<DatasetProblem, 'data' | 'subset' | 'line'>,
  ) {}

  /** A violation of the table of errors. @param param path of the field, `messages[2].content[0].image_url` */
  error(code: Violation['code'], param: string | null, facts: ErrorFacts): void {
    this.add('error', violation(code, param, facts));
  }

  /** Something that no request can be wrong in, by a code of its own. */
  own(severity: DatasetProblem['severity'], code: string, param: string | null, facts: ErrorFacts): void {
    this.add(severity, { code, param, message: errorMessage(param ?? code, facts) });
  }

  add(
    severity: DatasetProblem['severity'],
    { code, param, message }: Pick<DatasetProblem, 'code' | 'param' | 'message'>,
  ): void {
    if (severity === 'error') this.errors++;
    this.emit({ severity, code, message, ...this.where, ...indicesOf(param), param });
  }
}

/** `messages[2].content[1].image_url` → message 2, part 1. Turns of other forms count as messages. */
export function indicesOf(param: string | null): Pick<DatasetProblem, 'message_index' | 'part_index'> {
  const match = /^(?:messages|conversations?)\[(\d+)\](?:\.content\[(\d+)\])?/.exec(param ?? '');
  return {
    message_index: match?.[1] === undefined ? null : Number(match[1]),
    part_index: match?.[2] === undefined ? null : Number(match[2]),
  };
}
