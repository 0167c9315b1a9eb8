import type { WholeBenchmark } from './task.ts';
import { blinkTasks } from './tasks/blink.ts';

/** What a benchmark is before any file is read: what a run's records are held against, and what `mantis eval list` says. */
export interface BenchmarkFacts extends WholeBenchmark {
  /** Where its files come from and what they are. */
  readonly files: string;
  /** Pictures of a question. */
  readonly pictures: string;
}

const mmmuSubjects = [
  'Accounting Agriculture Architecture_and_Engineering Art Art_Theory Basic_Medical_Science Biology Chemistry Clinical_Medicine Computer_Science',
  'Design Diagnostics_and_Laboratory_Medicine Economics Electronics Energy_and_Power Finance Geography History Literature Manage',
  'Marketing Materials Math Mechanical_Engineering Music Pharmacy Physics Psychology Public_Health Sociology',
].flatMap((line) => line.split(' '));

/** By the task's name; numbers as their authors count. */
export const benchmarkFacts: Readonly<Record<string, BenchmarkFacts>> = {
  nlvr: { split: 'dev', records: 989, pictures: '3', files: 'SPLIT.jsonl, SPLIT.box.bin, SPLIT.box.idx' },
  nlvr2: { split: 'test', records: 6_967, pictures: '2', files: 'TIGER-Lab/NLVR2, or test1.json with pictures' },
  qbench2: { split: 'dev', records: 1_000, pictures: '2', files: 'q-bench2-a1-dev.jsonl with pictures, or Parquet' },
  'mantis-eval': { split: 'test', records: 217, pictures: '2 to 5', files: 'TIGER-Lab/Mantis-Eval' },
  blink: {
    split: 'val',
    records: 1_901,
    parts: blinkTasks,
    pictures: '1 to 4',
    files: 'BLINK-Benchmark/BLINK, 14 folders',
  },
  mvbench: {
    split: 'test',
    records: 4_000,
    pictures: '8 frames',
    files: '20 JSON files beside the folder video',
  },
  textvqa: { split: 'validation', records: 5_000, pictures: '1', files: 'lmms-lab/textvqa' },
  vqav2: { split: 'validation', records: 214_354, pictures: '1', files: 'lmms-lab/VQAv2' },
  mmbench: {
    split: 'test',
    records: null,
    pictures: '1',
    files: 'lmms-lab/MMBench, folder en, or MMBench_TEST_EN.tsv',
  },
  mmmu: {
    split: 'validation',
    records: 900,
    parts: mmmuSubjects,
    pictures: '1 to 7',
    files: 'MMMU/MMMU, a folder a subject, or lmms-lab/MMMU',
  },
  okvqa: { split: 'val2014', records: 5_046, pictures: '1', files: 'lmms-lab/OK-VQA' },
  scienceqa: { split: 'test', records: 2_017, pictures: '1', files: 'lmms-lab/ScienceQA' },
  mathvista: { split: 'testmini', records: 1_000, pictures: '1', files: 'AI4Math/MathVista' },
  muirbench: { split: 'test', records: 2_600, pictures: 'several', files: 'MUIRBENCH/MUIRBENCH' },
  mmiu: { split: 'test', records: 11_698, pictures: 'several', files: 'FanqingM/MMIU-Benchmark' },
};

/** The part of the facts that a report may rest on. */
export function wholeOf(name: string): WholeBenchmark | undefined {
  const facts = Object.hasOwn(benchmarkFacts, name) ? benchmarkFacts[name] : undefined;
  if (facts === undefined) return undefined;
  const { split, records, parts } = facts;
  return { split, records, ...(parts === undefined ? {} : { parts }) };
}
