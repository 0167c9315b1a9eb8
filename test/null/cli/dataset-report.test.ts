import assert from 'node:assert/strict';
import test from 'node:test';
import { reportText } from '../../../gpu-backend/cli/dataset-report.ts';
import type { DataSummary, DatasetReport } from '../../../shared/contract/datasets.ts';

const summary: DataSummary = {
  examples: 2_000,
  usable: 1_900,
  bad: 100,
  not_taken: 400,
  tokens: { total: 118_203, min: 41, median: 61, p95: 88, max: 93 },
  supervised_tokens: 37_825,
  image_tokens: 48_463,
  images: 1_934,
  unique_images: 40,
  images_per_example: { 0: 500, 1: 900, 2: 100 },
  turns_per_example: { 2: 1_500 },
  skills: { comparison: 1_500 },
  subsets: { 'a.jsonl': 1_000, 'b.jsonl': 500 },
};

const report: DatasetReport = {
  object: 'dataset.report',
  verdict: 'accepted',
  bad_share: 0.05,
  max_bad_share: 0.1,
  training: [summary],
  validation: null,
  problem_counts: { invalid_json: 100, duplicate: 1 },
  problems: [
    {
      severity: 'warning',
      code: 'duplicate',
      message: 'The same example as line 1.',
      data: 0,
      subset: 'a.jsonl',
      line: 2,
      message_index: null,
      part_index: null,
      param: null,
    },
    ...Array.from({ length: 100 }, (_, i) => ({
      severity: 'error' as const,
      code: 'invalid_json',
      message: 'expected one JSON object, received text that is not JSON',
      data: 0,
      subset: 'a.jsonl',
      line: i + 7,
      message_index: null,
      part_index: null,
      param: null,
    })),
  ],
  problems_file: 'file-all',
  left_out: [{ data: 0, lines: [7], total: 100 }],
  duplicates: { exact: 1, near: 0 },
  leakage: { images: 0, examples: 0 },
  estimate: {
    steps: 564,
    tokens: 354_609,
    memory_bytes: 754_000_000,
    seconds: 5_400,
    tokens_per_second: 900.4,
    stages: [
      {
        train: 'lora',
        steps: 564,
        tokens: 354_609,
        trained_parameters: 350_720,
        memory_bytes: 754_000_000,
        seconds: 5_300,
      },
    ],
    backend: 'here',
  },
};

test('a report is read from the verdict down', () => {
  const text = reportText(report);
  assert.equal(
    text,
    `accepted: 1,900 of 2,000 examples can be trained on; 5.0 % of the lines are bad, at most 10.0 % may be, and these are left out

training: 1,500 examples (400 more are not taken), 1,934 pictures, 40 different
  tokens: 118,203 in all, 32.0 % learned, 41.0 % pictures; an example has 41 to 93, median 61, 95 % at most 88
  pictures an example:
    0  500  █████████████
    1  900  ████████████████████████
    2  100  ███
  turns an example: 2 each
  skills: comparison each
  files:
    a.jsonl  1,000  ████████████████████████
    b.jsonl    500  ████████████

problems: invalid_json 100, duplicate 1
${[7, 8, 9, 10, 11].map((line) => `  error a.jsonl, line ${line}: expected one JSON object, received text that is not JSON (invalid_json)\n`).join('')}  warning a.jsonl, line 2: The same example as line 1. (duplicate)
  … and 95 more: all are in the file file-all

duplicates: 1 exact, 0 almost

training would take 90 min and 754 MB of memory on here: 564 steps, 354,609 tokens at 900 a second
  stage 1, lora: 564 steps, 354,609 tokens, 88 min, 754 MB, 350,720 trained parameters`,
  );
});

test('what is refused says so first, and what leaks is said', () => {
  const refused: DatasetReport = {
    ...report,
    verdict: 'refused',
    bad_share: 0.4,
    validation: summary,
    leakage: { images: 3, examples: 1 },
    estimate: null,
    problem_counts: {},
    problems: [],
  };
  const lines = reportText(refused).split('\n');
  assert.equal(
    lines[0],
    'REFUSED: 1,900 of 2,000 examples can be trained on; 40.0 % of the lines are bad, at most 10.0 % may be',
  );
  assert.ok(lines.includes('problems: none'));
  assert.ok(lines.includes('leakage: 3 validation pictures and 1 example are in the training data too'));
  assert.ok(lines.some((line) => line.startsWith('validation: 1,500 examples')));
});
