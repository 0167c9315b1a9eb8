import { sha256Hex } from '../io/digest.ts';

/** A piece of a prompt: text, or the index of one of the prompt's images. */
export type PromptPart = string | { readonly image: number };

/** What JSON can hold. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** A picture of a record, addressed by the SHA-256 of its file (lower-case hex). `bytes` reads the file as it is stored: PNG, JPEG, … */
export interface EvalImage {
  readonly sha256: string;
  bytes(): Promise<Uint8Array>;
}

/** One question of a benchmark, in the one form that all tasks share. */
export interface EvalRecord {
  /** Unique within the records of a task; what a report and a resumed run know the question by. */
  readonly id: string;
  /** Questions of one group share pictures or wording and are not independent: intervals are clustered by it. The id where there is no group. */
  readonly group: string;
  /** What the benchmark calls a task, skill or question type; null where it has none. */
  readonly category: string | null;
  /** In reading order. */
  readonly images: readonly EvalImage[];
  /** As published; `<image>` marks the place of a picture where the benchmark marks any. */
  readonly question: string;
  /** The answers to choose from, without letters; empty for free answers. */
  readonly options: readonly string[];
  /**
   * Reference answers as published: one, or one an annotator. Empty where the benchmark keeps them to itself (test splits): such a record is asked and handed
   * in (`submissionRow`), its items have the reference `''` and count in no number.
   */
  readonly answers: readonly string[];
  /** Further columns that prompt, parser or score need. */
  readonly fields: Readonly<Record<string, Json>>;
}

/** The records of a task, read from files that the user has. */
export interface EvalRecords {
  readonly length: number;
  get(index: number): Promise<EvalRecord>;
  /** SHA-256 over what was read: other records, other pictures or another order of them give another digest. */
  readonly digest: string;
  /** How these were chosen among those in the files. Absent: they are all of them. */
  readonly chosen?: ChosenRecords | undefined;
  close(): Promise<void>;
}

/**
 * `first`: reading ended after so many, how many more there are is not known (`of` null). `sample`: drawn at random by the seed, from every category as many as
 * its share.
 */
export type ChosenRecords =
  | { readonly how: 'first'; readonly of: number | null }
  | { readonly how: 'sample'; readonly of: number; readonly seed: number };

/** What a benchmark is as a whole, as its authors count. */
export interface WholeBenchmark {
  /** The split that these facts are of, which is the one of published results. */
  readonly split: string;
  /** Records of it; null where that is not known or depends on the files. */
  readonly records: number | null;
  /** Its tasks, subjects or skills by name, where the score is one over all of them: values of `category`. */
  readonly parts?: readonly string[];
}

/** A run that asked less than the whole benchmark: its numbers stand beside no published one. */
export interface EvalPart {
  /** Absent: all records of the files were asked, which are not all of the benchmark. */
  readonly chosen?: ChosenRecords;
  /** Records of the whole benchmark; null where that is not known. */
  readonly published: number | null;
  /** Absent where the benchmark has no parts, or all of them were asked. */
  readonly parts?: { readonly asked: number; readonly of: number; readonly missing: readonly string[] };
}

/** Where the user keeps a benchmark. */
export interface EvalSource {
  /** Files, or folders in which the task finds its files by their published names. */
  readonly paths: readonly string[];
  /** Folder of pictures that records name by relative path. Default: the folder of the file. */
  readonly imageFolder?: string;
  readonly split?: string;
  /** Read only so many records, the first ones. Default: all. A part that stands for the whole is drawn instead: `sampleRecords`. */
  readonly limit?: number;
}

/** A turn of a conversation; its parts name pictures as the prompt's own do. */
export interface EvalTurn {
  readonly role: 'user' | 'assistant';
  readonly parts: readonly PromptPart[];
}

/** What a model is asked. `parts` name pictures by their index in `images`. */
export interface EvalPrompt {
  readonly system?: string;
  /** Turns before the question, the user's first. Default: none. */
  readonly earlier?: readonly EvalTurn[];
  /** The user's turn that is to be answered. */
  readonly parts: readonly PromptPart[];
  readonly images: readonly EvalImage[];
  /** Longest answer, tokens. */
  readonly maxTokens: number;
  /** What a model that takes one picture is asked (`merge`), where it is not the texts of the parts joined by newlines. */
  readonly mergedText?: string;
  /** Present: the answer is the choice that the model finds most likely, where it can be asked for likelihoods; else it is generated. */
  readonly choices?: readonly string[];
}

/** What came of an answer. */
export interface Scored {
  /** 0 … 1. */
  readonly score: number;
  /** What the parser read, null where it read nothing. */
  readonly parsed: string | null;
  /** Name of the parser's rule that decided, for the report: `final answer`, `first letter`, `exact option`, … */
  readonly rule: string;
}

export type Aggregate = 'records' | 'categories' | 'groups';

/**
 * A benchmark: records, prompt, parser, score. Pure but for `open`: the same record and answer give the same score for ever under one `version`.
 */
export interface EvalTask {
  /** `nlvr2`. */
  readonly name: string;
  /** `NLVR2 (Suhr et al. 2019)`. */
  readonly title: string;
  /** Raised by every change that alters a prompt, a parsed answer or a score of any record; a test compares it with the digest of the case tables. */
  readonly version: number;
  /** Everything that makes the protocol, in words and literals: prompt texts, parser, score, longest answer, split. Shown in reports and hashed. */
  readonly protocol: { readonly [key: string]: Json };
  /**
   * How scores become one number. `records`: their mean; `categories`: unweighted mean of the categories' means; `groups`: mean over groups of the lowest
   * score in the group (MMBench's circular evaluation: right only where it is right under every rotation of the options).
   */
  readonly aggregate: Aggregate;
  /** What to hold a run's records against, to say of what whole they are a part. Default: nothing is known. */
  readonly whole?: WholeBenchmark;
  /** @throws Error that says which file is missing or what is wrong in which row */
  open(source: EvalSource): Promise<EvalRecords>;
  prompt(record: EvalRecord): EvalPrompt;
  score(answer: string, record: EvalRecord): Scored;
  /** Orders of the pictures in which the protocol asks every record (NLVR: all six). Default: as they are. */
  imageOrders?(record: EvalRecord): readonly (readonly number[])[];
  /**
   * For benchmarks whose publishers let a language model read the answer (MathVista, BLINK): what to ask it, null where the rules suffice. Used only when the
   * user names a judge; its reply then goes to `score` in place of the answer, and the judge's identity belongs to the run's `variants`.
   */
  extraction?(answer: string, record: EvalRecord): EvalPrompt | null;
  /** For benchmarks with a test server: the row that it wants to see of this answer (`--submission FILE`). */
  submissionRow?(answer: string, record: EvalRecord): { readonly [column: string]: Json };
}

/**
 * What is changed about a question, to learn what an answer rests on. `none`: nothing; `text-only`: no pictures; `blank`: every picture grey; `shuffled`: the
 * pictures of another group's record; `leave-one-out`: picture `leftOut` alone is grey.
 */
export type EvalControl = 'none' | 'text-only' | 'blank' | 'shuffled' | 'leave-one-out';

/** One way in which a record is asked. */
export interface EvalVariant {
  readonly control: EvalControl;
  /** Index of the blanked picture, for `leave-one-out`. */
  readonly leftOut?: number;
  /** The pictures in another order: place i shows picture imageOrder[i]. */
  readonly imageOrder?: readonly number[];
  /** Options moved on by so many places; the right letter moves with them. */
  readonly optionRotation?: number;
}

/** How pictures reach the model: one by one in their places, or pasted into one picture as the paper did for single-image models. */
export type ImageMode = 'sequence' | 'merge';

export interface EvalUsage {
  readonly promptTokens: number;
  readonly completionTokens: number;
}

export interface EvalAnswer {
  readonly text: string;
  readonly finishReason: 'stop' | 'length' | 'choice' | 'other';
  /** Log-probability of each choice, where `choices` were compared. */
  readonly logprobs?: readonly number[];
  readonly usage?: EvalUsage;
}

/** A model that can be asked: the engine in this process, an installation, or any endpoint that speaks OpenAI's chat completions. */
export interface EvalModel {
  /** For people: `nano`, `ft:nano:…`, `gpt-4o @ api.openai.com`. */
  readonly name: string;
  /** Changes with everything that may change an answer: digests of weights and adapter, template, precision; or address and name of a remote model. */
  readonly identity: string;
  /** Whether it compares `choices` by likelihood. */
  readonly comparesChoices: boolean;
  /** Questions it works on well at once. */
  readonly atOnce: number;
  /** @throws when there is no answer; what is passing is retried inside */
  answer(prompt: EvalPrompt, signal: AbortSignal): Promise<EvalAnswer>;
  close(): Promise<void>;
}

/** One asked question and what came of it: a line of a run's file. */
export interface EvalItem {
  readonly record: string;
  readonly group: string;
  readonly category: string | null;
  readonly variant: EvalVariant;
  readonly answer: string;
  readonly parsed: string | null;
  readonly rule: string;
  readonly score: number;
  /** As given by the record, after rotation: for lists of wrong answers. */
  readonly reference: string;
  readonly logprobs?: readonly number[];
  readonly usage?: EvalUsage;
  /** What the judge read in the answer, where one did: this was scored. */
  readonly extracted?: string;
  /** Present where the model gave no answer; the score is 0. */
  readonly error?: string;
}

/** What a run did, all that its hash covers. */
export interface EvalSpec {
  readonly task: string;
  readonly version: number;
  readonly protocol: { readonly [key: string]: Json };
  readonly aggregate: Aggregate;
  /** Digest of the records and how many of them were asked (the first ones); `part` where they are less than the benchmark. */
  readonly data: { readonly digest: string; readonly records: number; readonly part?: EvalPart };
  readonly mode: ImageMode;
  readonly variants: { readonly [key: string]: Json };
}

/** SHA-256 of what a run did, of the JSON with sorted keys: two reports with one hash may be compared, others not. */
export function specHash(spec: EvalSpec): string {
  return sha256Hex(new TextEncoder().encode(canonicalJson(spec as unknown as Json)));
}

/** JSON with sorted keys and without white space; keys whose value is undefined are left out. */
export function canonicalJson(value: Json): string {
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map((one: Json) => canonicalJson(one)).join(',')}]`;
  return `{${Object.entries(value as { readonly [key: string]: Json | undefined })
    .filter((entry): entry is [string, Json] => entry[1] !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, one]) => `${JSON.stringify(key)}:${canonicalJson(one)}`)
    .join(',')}}`;
}
