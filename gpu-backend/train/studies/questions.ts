import { type Mix, namesAnImage } from './dialogues.ts';
import type { Form } from './forms.ts';
import type { Arm, Group, Row, Study, StudyId } from './study.ts';
import type { TrainPart } from './training.ts';

const SEQUENCE: Form = { pictures: 'sequence', denotation: 'numbered' };
const MERGED: Form = { pictures: 'merged', denotation: 'numbered' };
const BARE: Form = { pictures: 'sequence', denotation: 'bare' };

/** The three skills over sets; what happens over time has its own sequences and comes in where skills are the question. */
const SETS: Mix = { coreference: 1, comparison: 1, reasoning: 1 };
const STEP = { dialogues: 24 } as const;

const COREFERENCE: Group = { id: 'coreference', title: 'co-reference', topics: ['coreference'] };
const COMPARISON: Group = { id: 'comparison', title: 'comparison', topics: ['comparison'] };
const REASONING: Group = { id: 'reasoning', title: 'reasoning', topics: ['reasoning'] };
const TEMPORAL: Group = { id: 'temporal', title: 'temporal', topics: ['temporal'] };
const SET_GROUPS = [COREFERENCE, COMPARISON, REASONING] as const;

const whole = (steps: number, mix: Mix, form: Form = SEQUENCE): TrainPart[] => [{ steps, mix, form, moves: 'all' }];
const arm = (id: string, title: string, mix: Mix, form: Form = SEQUENCE): Arm => ({
  id,
  title,
  parts: (steps) => whole(steps, mix, form),
});
/** A row that asks an arm in the form it was trained in. */
const rowOf = ({ id, title }: Arm, form: Form = SEQUENCE): Row => ({ id, title, arm: id, form });

const DEFAULT_BUDGET = { steps: 1000, startSteps: 400, items: 500 } as const;

function interleaved(): Study {
  const sequence = arm('sequence', 'one by one', SETS, SEQUENCE);
  const merged = arm('merged', 'pasted into one', SETS, MERGED);
  return {
    id: 'interleaved',
    title: 'Interleaved pictures against merged ones',
    budgetText:
      'equal steps over the same dialogues; merged: one picture by the evaluation’s rule, at the size of one picture',
    defaultBudget: DEFAULT_BUDGET,
    stepSize: STEP,
    start: 'captions',
    arms: [sequence, merged],
    rows: [
      { ...rowOf(sequence), title: 'one by one, asked one by one' },
      { id: 'sequence-merged', title: 'one by one, asked pasted into one', arm: 'sequence', form: MERGED },
      { ...rowOf(merged, MERGED), title: 'pasted into one, asked pasted into one' },
      { id: 'merged-sequence', title: 'pasted into one, asked one by one', arm: 'merged', form: SEQUENCE },
    ],
    groups: SET_GROUPS,
    comparisons: [
      ['merged', 'sequence'],
      ['sequence-merged', 'sequence'],
    ],
  };
}

function denotation(): Study {
  const numbered = arm('numbered', '`(image k: …)`', SETS, SEQUENCE);
  const bare = arm('bare', 'pictures alone', SETS, BARE);
  const topics = ['coreference', 'comparison', 'reasoning'] as const;
  return {
    id: 'denotation',
    title: 'With and without the `(image k: …)` denotation',
    budgetText: 'equal steps over the same dialogues',
    defaultBudget: DEFAULT_BUDGET,
    stepSize: STEP,
    start: 'captions',
    arms: [numbered, bare],
    rows: [
      rowOf(numbered),
      rowOf(bare, BARE),
      { id: 'numbered-bare', title: '`(image k: …)`, asked without', arm: 'numbered', form: BARE },
    ],
    groups: [
      { id: 'named', title: 'names an image by number', topics, keeps: ({ question }) => namesAnImage(question) },
      { id: 'unnamed', title: 'names none', topics, keeps: ({ question }) => !namesAnImage(question) },
    ],
    comparisons: [
      ['bare', 'numbered'],
      ['numbered-bare', 'numbered'],
    ],
  };
}

/** Share of the two-stage arm's dialogues that the projector alone learns from. */
const ALIGN_SHARE = 0.4;
/** A step in which only the projector moves has no gradients of the decoder's weights: two of a full step's three passes. */
const PROJECTOR_STEP_COST = 2 / 3;

function stages(): Study {
  const split = (steps: number, moves: TrainPart['moves']): TrainPart[] => {
    const align = Math.round(ALIGN_SHARE * steps);
    return [
      { steps: align, mix: { caption: 1 }, form: SEQUENCE, moves },
      { steps: steps - align, mix: SETS, form: SEQUENCE, moves: 'all' },
    ];
  };
  const two: Arm = { id: 'two', title: 'projector, then all', parts: (steps) => split(steps, 'projector') };
  const one: Arm = { id: 'one', title: 'all at once, same dialogues', parts: (steps) => split(steps, 'all') };
  const mixed: Arm = {
    id: 'mixed',
    title: 'all at once, same compute, dialogues mixed',
    parts: (steps) =>
      whole(Math.round(steps * (1 - ALIGN_SHARE * (1 - PROJECTOR_STEP_COST))), {
        caption: ALIGN_SHARE,
        coreference: (1 - ALIGN_SHARE) / 3,
        comparison: (1 - ALIGN_SHARE) / 3,
        reasoning: (1 - ALIGN_SHARE) / 3,
      }),
  };
  return {
    id: 'stages',
    title: 'Two stages against one',
    budgetText:
      'start: random projector; 40 % of the dialogues are about single pictures. `Same dialogues`: equal steps; `same compute`: a step of the projector alone counts two thirds',
    defaultBudget: DEFAULT_BUDGET,
    stepSize: STEP,
    start: 'new projector',
    arms: [two, one, mixed],
    rows: [two, one, mixed].map((a) => rowOf(a)),
    groups: SET_GROUPS,
    comparisons: [
      ['one', 'two'],
      ['mixed', 'two'],
    ],
  };
}

function skills(): Study {
  const arms = [
    arm('coreference', 'co-reference', { coreference: 1 }),
    arm('comparison', '+ comparison', { coreference: 1, comparison: 1 }),
    arm('reasoning', '+ reasoning', { coreference: 1, comparison: 1, reasoning: 1 }),
    arm('temporal', '+ temporal', { coreference: 1, comparison: 1, reasoning: 1, temporal: 1 }),
  ];
  return {
    id: 'skills',
    title: 'Skills added one at a time',
    budgetText: 'equal answer tokens; dialogues drawn evenly from the skills of the arm',
    defaultBudget: DEFAULT_BUDGET,
    stepSize: { answerTokens: 400 },
    start: 'captions',
    arms,
    rows: arms.map((a) => rowOf(a)),
    groups: [...SET_GROUPS, TEMPORAL],
    comparisons: [
      ['coreference', 'comparison'],
      ['comparison', 'reasoning'],
      ['reasoning', 'temporal'],
      ['coreference', 'temporal'],
    ],
  };
}

function multiImage(): Study {
  const single = arm('single', 'single pictures', { single: 1 });
  const multi = arm('multi', 'sets of pictures', SETS);
  const both = arm('both', 'half and half', { single: 3, ...SETS });
  return {
    id: 'multi-image',
    title: 'Multi-image data against the same amount of single-image data',
    budgetText: 'equal answer tokens',
    defaultBudget: DEFAULT_BUDGET,
    stepSize: { answerTokens: 400 },
    start: 'captions',
    arms: [single, both, multi],
    rows: [single, both, multi].map((a) => rowOf(a)),
    groups: [...SET_GROUPS, { id: 'single', title: 'single picture', topics: ['single'] }],
    comparisons: [
      ['single', 'multi'],
      ['single', 'both'],
      ['both', 'multi'],
    ],
  };
}

/** How often the whole pool is read at the full number of steps. */
const EPOCHS = 8;

function data(): Study {
  const pool = (steps: number, share: number): number =>
    Math.max(1, Math.round((steps * STEP.dialogues * share) / EPOCHS));
  const shares = [1 / 8, 1 / 4, 1 / 2, 1];
  const nameOf = (share: number): string => (share === 1 ? 'all' : `1/${1 / share}`);
  const fixedSteps = shares.map(
    (share): Arm => ({
      id: `steps-${Math.round(1 / share)}`,
      title: `${nameOf(share)}, equal steps`,
      parts: (steps) => whole(steps, SETS),
      pool: (steps) => pool(steps, share),
    }),
  );
  const fixedEpochs = shares.slice(0, -1).map(
    (share): Arm => ({
      id: `epochs-${Math.round(1 / share)}`,
      title: `${nameOf(share)}, equal epochs`,
      parts: (steps) => whole(Math.max(1, Math.round(steps * share)), SETS),
      pool: (steps) => pool(steps, share),
    }),
  );
  const arms = [...fixedSteps, ...fixedEpochs];
  const points = (ids: readonly string[]) => ids.map((row, i) => ({ row, x: shares[i] ?? 1 }));
  return {
    id: 'data',
    title: 'How accuracy grows with data',
    budgetText: `all: ${EPOCHS} epochs of the pool; equal steps: a share of the pool read so much more often; equal epochs: a share of the steps`,
    defaultBudget: DEFAULT_BUDGET,
    stepSize: STEP,
    start: 'captions',
    arms,
    rows: arms.map((a) => rowOf(a)),
    groups: SET_GROUPS,
    comparisons: [['steps-8', 'steps-1']],
    fits: [
      { title: 'a doubling of the data, equal steps', points: points(fixedSteps.map(({ id }) => id)) },
      {
        title: 'a doubling of the data, equal epochs',
        points: points([...fixedEpochs.map(({ id }) => id), 'steps-1']),
      },
    ],
  };
}

/** The paper's questions at this scale. */
export const STUDIES: ReadonlyMap<StudyId, Study> = new Map(
  [interleaved(), denotation(), stages(), skills(), multiImage(), data()].map((study) => [study.id, study]),
);
