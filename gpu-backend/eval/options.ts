import type { EvalTask, PromptPart } from './task.ts';

/**
 * How an answer to a question with options is had. `generation`: the model writes and the parser reads, as published for all but NLVR. `likelihood`: the option's
 * letter (or word) that the model finds most likely, where it can be asked for likelihoods.
 */
export type AnswerBy = 'generation' | 'likelihood';

/**
 * How text and pictures of a question are put together.
 * - `interleaved`: pieces of text and pictures in the order of the question, as a chat message holds them.
 * - `llava`: the same, with a space after every picture: the one string that the Mantis paper's LLaVA wrapper builds.
 * - `pictures-first`: all pictures, then all text joined by newlines: the paper's Idefics2 wrapper, which loses the interleaving.
 */
export const promptLayouts = ['interleaved', 'llava', 'pictures-first'] as const;
export type PromptLayout = (typeof promptLayouts)[number];

/** What a protocol leaves open; each is part of it and thereby of the hash that a report prints. Tasks read `answerBy`; `wrapTask` does the rest for all of them. */
export interface TaskOptions {
  /** Default: the task's, as published. A task that has free answers alone pays no attention. */
  readonly answerBy?: AnswerBy;
  /** Default `interleaved`. */
  readonly layout?: PromptLayout;
  /** Longest answer, tokens. Default: the task's. The paper's wrappers: Idefics2 512, LLaVA and Fuyu 4,096, Emu2 64, OpenFlamingo 16. */
  readonly maxTokens?: number;
}

/** The task with its prompts laid out otherwise; what differs from the task's own form stands in the protocol. */
export function wrapTask(task: EvalTask, { layout = 'interleaved', maxTokens }: TaskOptions): EvalTask {
  if (maxTokens !== undefined && (!Number.isInteger(maxTokens) || maxTokens < 1))
    throw new RangeError(`maxTokens: expected a whole number of at least 1, received ${maxTokens}`);
  if (layout === 'interleaved' && maxTokens === undefined) return task;
  return {
    ...task,
    protocol: {
      ...task.protocol,
      ...(layout === 'interleaved' ? {} : { layout }),
      ...(maxTokens === undefined ? {} : { maxTokens }),
    },
    prompt: (record) => {
      const prompt = task.prompt(record);
      const { earlier } = prompt;
      return {
        ...prompt,
        ...(earlier === undefined
          ? {}
          : { earlier: earlier.map(({ role, parts }) => ({ role, parts: layOut(parts, layout) })) }),
        parts: layOut(prompt.parts, layout),
        maxTokens: maxTokens ?? prompt.maxTokens,
      };
    },
  };
}

/** Puts pieces, which come in the order of `interleaved`, into a layout. */
export function layOut(parts: readonly PromptPart[], layout: PromptLayout): PromptPart[] {
  if (layout === 'interleaved') return [...parts];
  if (layout === 'pictures-first') {
    const text = parts.filter((part) => typeof part === 'string').join('\n');
    return [...parts.filter((part) => typeof part !== 'string'), ...(text === '' ? [] : [text])];
  }
  const spaced: PromptPart[] = [];
  let space = '';
  for (const part of parts) {
    if (typeof part === 'string') spaced.push(space + part);
    else spaced.push(...(space === '' ? [] : [space]), part);
    space = typeof part === 'string' ? '' : ' ';
  }
  return space === '' ? spaced : [...spaced, space];
}
