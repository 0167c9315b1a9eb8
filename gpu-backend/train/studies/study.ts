import type { Item, Mix, Topic } from './dialogues.ts';
import type { Form } from './forms.ts';
import type { StepSize, TrainPart } from './training.ts';

/** Budget of a study: what its arms are equal in, or multiples of. */
export interface StudyBudget {
  /** Optimizer steps of an arm that takes the whole budget. */
  readonly steps: number;
  /** Steps of the common start, on what is in single pictures. */
  readonly startSteps: number;
  /** Held-out questions of each group. */
  readonly items: number;
}

/** One way to train. Arms of a study differ in one thing. */
export interface Arm {
  /** Part of file names: letters, digits, `-`. */
  readonly id: string;
  /** Row of the table. */
  readonly title: string;
  parts(steps: number): TrainPart[];
  /** Different dialogues, see TrainRunOptions. */
  pool?(steps: number): number;
}

/** A row of the table: an arm, and how it is asked. */
export interface Row {
  readonly id: string;
  readonly title: string;
  readonly arm: string;
  readonly form: Form;
}

/** A column of the table: held-out questions of some topics. */
export interface Group {
  readonly id: string;
  readonly title: string;
  readonly topics: readonly Exclude<Topic, 'caption'>[];
  /** Of those the ones that count. Absent: all. */
  readonly keeps?: (item: Item) => boolean;
}

/** Rows of which accuracy is fitted as a + b·log2(x): b is the gain of a doubling. */
export interface Fit {
  readonly title: string;
  readonly points: readonly { readonly row: string; readonly x: number }[];
}

/** One question: its arms, what they are tested on, and who is compared with whom. */
export interface Study {
  readonly id: StudyId;
  readonly title: string;
  /** What the arms have in common and what they are equal in, one sentence. */
  readonly budgetText: string;
  readonly defaultBudget: StudyBudget;
  readonly stepSize: StepSize;
  /** `captions`: tower of the given model, decoder taught single pictures; `new projector`: the same with random projector weights. */
  readonly start: 'captions' | 'new projector';
  readonly arms: readonly Arm[];
  readonly rows: readonly Row[];
  readonly groups: readonly Group[];
  /** Pairs of rows: the first, and the one that is compared with it. */
  readonly comparisons: readonly (readonly [first: string, second: string])[];
  readonly fits?: readonly Fit[];
}

export type StudyId = 'interleaved' | 'denotation' | 'stages' | 'skills' | 'multi-image' | 'data';

/** Mixture of the common start. */
export const START_MIX: Mix = { caption: 1 };

export const START_STEP: StepSize = { dialogues: 24 };
