import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type JinjaTemplate, takesImages } from './jinja.ts';
import {
  type ChatTemplate,
  FUYU_TEMPLATE,
  IDEFICS2_CHAT_TEMPLATE,
  templateByName,
  templateForLanguageModel,
} from './templates.ts';

type Json = Readonly<Record<string, unknown>>;

function readJson(path: string): Json | null {
  if (!existsSync(path)) return null;
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as Json;
  } catch (cause) {
    throw new Error(`${path}: expected JSON`, { cause });
  }
}

/** A token in tokenizer_config.json: its written form, or an object that holds it. */
function written(token: unknown): string | null {
  if (typeof token === 'string') return token;
  const content = (token as { content?: unknown } | null | undefined)?.content;
  return typeof content === 'string' ? content : null;
}

/** The template's text: a file of its own (newer checkpoints), or in tokenizer_config.json, alone or as `default` of several. */
function readSource(dir: string, tokenizerConfig: Json | null): string | null {
  const file = join(dir, 'chat_template.jinja');
  if (existsSync(file)) return readFileSync(file, 'utf8');
  const value = readJson(join(dir, 'chat_template.json'))?.chat_template ?? tokenizerConfig?.chat_template;
  if (typeof value === 'string') return value;
  if (!Array.isArray(value)) return null;
  const named = value as readonly { readonly name?: unknown; readonly template?: unknown }[];
  const template = named.find(({ name }) => name === 'default')?.template;
  return typeof template === 'string' ? template : null;
}

interface PostProcessor {
  readonly type?: string;
  readonly processors?: readonly PostProcessor[];
  readonly single?: readonly { readonly SpecialToken?: { readonly id?: string } }[];
}

/** Whether the tokenizer itself puts `bos` in front: its config says so, or its post-processor's template does. */
function addsBos(dir: string, tokenizerConfig: Json | null, bos: string | null): boolean {
  if (typeof tokenizerConfig?.add_bos_token === 'boolean') return tokenizerConfig.add_bos_token;
  const post = readJson(join(dir, 'tokenizer.json'))?.post_processor as PostProcessor | null | undefined;
  const processors = post?.processors ?? (post ? [post] : []);
  return processors.some(({ single }) => single?.[0]?.SpecialToken?.id === bos && bos !== null);
}

/** The format of a family whose checkpoint brings none that takes images. */
function familyTemplate(config: Json | null): ChatTemplate {
  if (config?.model_type === 'idefics2') return IDEFICS2_CHAT_TEMPLATE;
  if (config?.model_type === 'fuyu') return FUYU_TEMPLATE;
  const text = config?.text_config as { readonly _name_or_path?: unknown } | undefined;
  return templateForLanguageModel(typeof text?._name_or_path === 'string' ? text._name_or_path : '');
}

/**
 * How a checkpoint folder is spoken to. In this order: the name in tokenizer_config.json (`mantis_template`, our own field);
 * the checkpoint's own chat template if it takes images; the Mantis template of its family. A template without images, which
 * most language models bring along, cannot say where pictures go, and the reference does not use it either.
 * @throws Error naming the file at fault
 */
export function templateForCheckpoint(dir: string): ChatTemplate {
  const tokenizerConfig = readJson(join(dir, 'tokenizer_config.json'));
  if (typeof tokenizerConfig?.mantis_template === 'string') return templateByName(tokenizerConfig.mantis_template);
  const base = familyTemplate(readJson(join(dir, 'config.json')));
  const source = readSource(dir, tokenizerConfig);
  if (source === null) return base;
  const bosToken = written(tokenizerConfig?.bos_token);
  const eosToken = written(tokenizerConfig?.eos_token);
  const jinja: JinjaTemplate = { source, bosToken, eosToken, addsBos: addsBos(dir, tokenizerConfig, bosToken) };
  const [imageToken = '<image>'] = base.slotTokens ?? [];
  if (!takesImages(jinja, imageToken)) return base;
  return {
    ...base,
    name: 'checkpoint',
    jinja,
    // LLaVA relatives with a template of their own have bare image tokens; "(image k: …)" is Mantis's.
    image: base.image.sharesSpecials ? base.image : { before: [], after: [], firstNumber: 1, sharesSpecials: false },
    stop: [...(eosToken === null ? [] : [eosToken]), ...base.stop],
  };
}
