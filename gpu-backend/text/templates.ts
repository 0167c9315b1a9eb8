import { closingToken, type JinjaTemplate } from './jinja.ts';
import type { Tokenizer } from './tokenizer.ts';
import { TokenizerError } from './tokenizer-error.ts';

/**
 * A piece of a template: a special token by its written form, or ordinary text. `{k}` in a wrapper's text is the image number.
 * A special that `joins` is part of the text around it where it is only a piece of the vocabulary: a tokenizer that puts a space in
 * front of each text then puts none after it, and one before it where the text begins with it.
 */
export type TemplatePiece = { readonly special: string; readonly joins?: boolean } | { readonly text: string };

/** What stands before and after the content of one turn. */
export interface TurnFormat {
  readonly before: readonly TemplatePiece[];
  /** In place of `before` where the content starts with text rather than an image. Default: `before`. */
  readonly beforeText?: readonly TemplatePiece[];
  readonly after: readonly TemplatePiece[];
}

/**
 * Which tokens of a training sample are in the loss.
 * - `mantis`: of every assistant turn the header, the answer and the closing token, as the published models were tuned.
 * - `answer`: of every assistant turn the answer and the closing token.
 * - `all`: every token but the image slots (stage 1, captions).
 */
export type LossRule = 'mantis' | 'answer' | 'all';

/** A conversation format as data. Layout reads it; nothing else knows how a model wants to be spoken to. */
export interface ChatTemplate {
  readonly name: string;
  /** Before everything, e.g. the begin-of-text token. */
  readonly start: readonly TemplatePiece[];
  readonly system: TurnFormat;
  /** Used where the conversation has no system message; null: no system turn then. */
  readonly defaultSystem: string | null;
  readonly user: TurnFormat;
  readonly assistant: TurnFormat;
  /** What stands at the end of a prompt so that the model answers; in most formats the assistant's header. */
  readonly generationPrompt: readonly TemplatePiece[];
  readonly image: TurnFormat & {
    /** Number of the first image, counted over the whole conversation. */
    readonly firstNumber: number;
    /** Numbers of the conversation's images one by one, where they do not follow each other. Default: counted from `firstNumber`. */
    readonly numbers?: readonly number[];
    /** Adjacent images share the special token between them (Idefics2's fake tokens). */
    readonly sharesSpecials: boolean;
  };
  readonly lossOn: LossRule;
  /** Written forms of the tokens that end an answer; those a tokenizer lacks are ignored, but one must be there. */
  readonly stop: readonly string[];
  /** False for formats that have no place for a user's words: text in a user turn is then refused. */
  readonly takesUserText: boolean;
  /** The checkpoint's own template, which then says how turns look; `image` still says what stands around an image. */
  readonly jinja?: JinjaTemplate;
  /** Written forms of the tokens that fill image slots. Default: `<image>`. */
  readonly slotTokens?: readonly string[];
}

/** What typed text must never become in this format: its special tokens and the tokens of image slots. */
export function reservedTokens(template: ChatTemplate): string[] {
  const { start, system, user, assistant, generationPrompt, image, stop, slotTokens = ['<image>'] } = template;
  const pieces = [
    ...start,
    ...generationPrompt,
    ...[system, user, assistant, image].flatMap(({ before, after }) => [...before, ...after]),
  ];
  return [
    ...new Set([...pieces.flatMap((piece) => ('special' in piece ? [piece.special] : [])), ...stop, ...slotTokens]),
  ];
}

/** "(image 2: <Image><image></Image>)"; only `<image>` is a token, the rest is ordinary text (Mantis, processing_llava.py). */
const MANTIS_IMAGE: ChatTemplate['image'] = {
  before: [{ text: '(image {k}: <Image>' }],
  after: [{ text: '</Image>)' }],
  firstNumber: 1,
  sharesSpecials: false,
};

function llama3Turn(role: string): TurnFormat {
  return {
    before: [{ special: '<|start_header_id|>' }, { text: role }, { special: '<|end_header_id|>' }, { text: '\n\n' }],
    after: [{ special: '<|eot_id|>' }],
  };
}

/** Mantis-CLIP and Mantis-SigLIP on Llama-3. The system sentence is the one both were trained and evaluated with. */
export const LLAMA3_TEMPLATE: ChatTemplate = {
  name: 'llama-3',
  start: [{ special: '<|begin_of_text|>' }],
  system: llama3Turn('system'),
  defaultSystem: 'You are a pirate chatbot who always responds in pirate speak!',
  user: llama3Turn('user'),
  assistant: llama3Turn('assistant'),
  generationPrompt: llama3Turn('assistant').before,
  image: MANTIS_IMAGE,
  lossOn: 'mantis',
  stop: ['<|eot_id|>', '<|end_of_text|>'],
  takesUserText: true,
};

/** The format of the models trained here: Llama-3 turns without a system turn, loss on the answer alone. */
export const NANO_TEMPLATE: ChatTemplate = { ...LLAMA3_TEMPLATE, name: 'nano', defaultSystem: null, lossOn: 'answer' };

/**
 * One token for each turn's header: half the text of a short question. For models trained here on their own vocabulary,
 * where ten header tokens a turn would be most of the sequence. Loss on the answer alone.
 */
export const COMPACT_TEMPLATE: ChatTemplate = {
  name: 'compact',
  start: [{ special: '<|begin_of_text|>' }],
  system: { before: [], after: [{ special: '<|eot_id|>' }] },
  defaultSystem: null,
  user: { before: [{ special: '<|user|>' }], after: [] },
  assistant: { before: [{ special: '<|assistant|>' }], after: [{ special: '<|eot_id|>' }] },
  generationPrompt: [{ special: '<|assistant|>' }],
  image: MANTIS_IMAGE,
  lossOn: 'answer',
  stop: ['<|eot_id|>', '<|end_of_text|>'],
  takesUserText: true,
};

/** LLaVA decoders other than Llama-3 (conv_mllava_v1). */
export const VICUNA_TEMPLATE: ChatTemplate = {
  name: 'vicuna',
  start: [{ special: '<s>' }],
  system: { before: [], after: [{ special: '</s>' }] },
  defaultSystem:
    'A chat between a curious human and an artificial intelligence assistant. ' +
    "The assistant gives helpful, detailed, and polite answers to the human's questions.",
  user: { before: [{ text: 'USER: ' }], after: [{ special: '</s>' }] },
  assistant: { before: [{ text: 'ASSISTANT: ' }], after: [{ special: '</s>' }] },
  generationPrompt: [{ text: 'ASSISTANT:' }],
  image: MANTIS_IMAGE,
  lossOn: 'mantis',
  stop: ['</s>'],
  takesUserText: true,
};

/** Mantis-Idefics2: no image numbers; a fake token on both sides of a run of images. */
export const IDEFICS2_TEMPLATE: ChatTemplate = {
  name: 'idefics2',
  start: [{ special: '<s>' }],
  system: { before: [], after: [{ special: '<end_of_utterance>' }] },
  defaultSystem: null,
  user: { before: [{ text: 'User:' }], after: [{ special: '<end_of_utterance>' }, { text: '\n' }] },
  assistant: { before: [{ text: 'Assistant:' }], after: [{ special: '<end_of_utterance>' }, { text: '\n' }] },
  generationPrompt: [{ text: 'Assistant:' }],
  image: {
    before: [{ special: '<fake_token_around_image>' }],
    after: [{ special: '<fake_token_around_image>' }],
    firstNumber: 1,
    sharesSpecials: true,
  },
  lossOn: 'mantis',
  stop: ['<end_of_utterance>', '</s>'],
  takesUserText: true,
};

/** Idefics2 as it is asked (its Hugging Face template): a space follows the colon where a message starts with text. */
export const IDEFICS2_CHAT_TEMPLATE: ChatTemplate = {
  ...IDEFICS2_TEMPLATE,
  name: 'idefics2-chat',
  system: {
    before: [{ text: 'System:' }],
    beforeText: [{ text: 'System: ' }],
    after: [{ special: '<end_of_utterance>' }, { text: '\n' }],
  },
  user: { ...IDEFICS2_TEMPLATE.user, beforeText: [{ text: 'User: ' }] },
  assistant: { ...IDEFICS2_TEMPLATE.assistant, beforeText: [{ text: 'Assistant: ' }] },
};

/**
 * Mantis-Fuyu (conv_mfuyu_v1 and MFuyuProcessor): the text is cut at the images, each piece gets `<s>` in front and is
 * tokenised alone, and pictures are numbered from zero. Within a piece `<0x04>` and `|ENDOFTEXT|` do not start a new text.
 */
export const FUYU_TEMPLATE: ChatTemplate = {
  name: 'fuyu',
  start: [{ special: '<s>' }],
  system: { before: [], after: [{ text: '\n' }] },
  defaultSystem:
    'You are a helpful language and vision assistant. ' +
    'You are able to understand the visual content that the user provides, ' +
    'and assist the user with a variety of tasks using natural language.',
  user: { before: [{ text: 'USER: ' }], after: [{ special: '<0x04>', joins: true }] },
  assistant: { before: [{ text: 'ASSISTANT: ' }], after: [{ special: '|ENDOFTEXT|', joins: true }] },
  generationPrompt: [{ text: 'ASSISTANT:' }],
  image: {
    before: [{ text: 'image {k}: ' }, { special: '|IMAGE|' }],
    // What follows a picture is never empty: at least the turn's end belongs to the next piece, which starts with <s>.
    after: [{ special: '|ENDOFIMAGE|' }, { special: '<s>' }],
    firstNumber: 0,
    sharesSpecials: false,
  },
  lossOn: 'mantis',
  stop: ['|ENDOFTEXT|'],
  takesUserText: true,
  slotTokens: ['|SPEAKER|', '|NEWLINE|'],
};

/** Stage 1, captions: images, then the caption and a newline. Only image parts may stand in user turns. */
export const PLAIN_TEMPLATE: ChatTemplate = {
  name: 'plain',
  start: [{ special: '<|begin_of_text|>' }],
  system: { before: [], after: [] },
  defaultSystem: null,
  user: { before: [], after: [{ text: ' ' }] },
  assistant: { before: [], after: [{ text: '\n' }] },
  generationPrompt: [],
  image: MANTIS_IMAGE,
  lossOn: 'all',
  stop: ['<|end_of_text|>', '</s>'],
  takesUserText: false,
};

const TEMPLATES: readonly ChatTemplate[] = [
  LLAMA3_TEMPLATE,
  NANO_TEMPLATE,
  COMPACT_TEMPLATE,
  VICUNA_TEMPLATE,
  IDEFICS2_TEMPLATE,
  IDEFICS2_CHAT_TEMPLATE,
  FUYU_TEMPLATE,
  PLAIN_TEMPLATE,
];

/** @throws Error that lists the names there are */
export function templateByName(name: string): ChatTemplate {
  const found = TEMPLATES.find((template) => template.name === name);
  if (!found)
    throw new Error(
      `expected a template name (${TEMPLATES.map((template) => template.name).join(', ')}), got ${JSON.stringify(name)}`,
    );
  return found;
}

/**
 * The template of a LLaVA-type checkpoint that names none: as in the original code, by looking for "llama-3" in the path of
 * the language model it was made from (`text_config._name_or_path`).
 */
export function templateForLanguageModel(nameOrPath: string): ChatTemplate {
  return /llama-3/i.test(nameOrPath) ? LLAMA3_TEMPLATE : VICUNA_TEMPLATE;
}

/**
 * The template bound to a tokenizer: every special token it needs must exist. A begin-of-text token that the tokenizer lacks
 * is left out, since checkpoints without one are trained without one.
 *
 * @throws TokenizerError that lists what is missing
 */
export function bindTemplate(template: ChatTemplate, tokenizer: Tokenizer): ChatTemplate {
  const exists = (piece: TemplatePiece): boolean => 'text' in piece || tokenizer.idOf(piece.special) !== undefined;
  const turns =
    template.jinja !== undefined
      ? [template.image]
      : [
          template.user,
          template.assistant,
          ...(template.defaultSystem === null ? [] : [template.system]),
          template.image,
        ];
  const missing = turns
    .flatMap(({ before, beforeText = [], after }) => [...before, ...beforeText, ...after])
    .filter((piece) => !exists(piece))
    .map((piece) => ('special' in piece ? piece.special : ''));
  const closing = template.jinja === undefined ? null : closingToken(template.jinja, tokenizer);
  const stop = [...new Set([...(closing === null ? [] : [closing]), ...template.stop])].filter(
    (token) => tokenizer.idOf(token) !== undefined,
  );
  if (stop.length === 0) missing.push(`one of ${template.stop.join(', ')}`);
  if (missing.length > 0) {
    throw new TokenizerError(
      `the template ${template.name} needs ${[...new Set(missing)].join('; ')}, which the tokenizer lacks`,
    );
  }
  return { ...template, start: template.start.filter(exists), stop };
}
