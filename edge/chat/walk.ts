/**
 * Reads a conversation's request field by field, message by message, part by part, in the order in which it is written. So everything wrong is found in
 * one go and in reading order, what is right beside it can still be looked at (pictures of a request with a wrong temperature, say), and work and memory
 * stay in proportion to the body: what is too many is refused by its number, not element by element.
 */
import { ChatMessage, ContentPart } from '../../shared/contract/chat.ts';
import {
  describe,
  fieldPath,
  unknownParameter,
  type Violation,
  ViolationList,
  violation,
  violationsOf,
} from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { Schema } from '../middleware/body.ts';

const R = LIMITS.request;

type Json = Readonly<Record<string, unknown>>;
type Fields = Readonly<Record<string, Schema<unknown>>>;
type Path = readonly PropertyKey[];

/** Where a picture is named, whether or not the rest of its part is right. */
export type NamedImage = { param: string; url: string; role: unknown };

export type Walked<T> = {
  /** The request where all of it fits its schema, else null. */
  request: T | null;
  /** Fields that fit their schemas, `messages` excepted. */
  fields: Partial<Omit<T, 'messages'>>;
  /** Names of fields that are there and do not. */
  wrongFields: ReadonlySet<string>;
  /** All messages, where every one of them is right. */
  messages: ChatMessage[] | null;
  images: NamedImage[];
  /** Of each message that is looked at, as it is given. */
  roles: unknown[];
  violations: ViolationList;
};

/** What a request of one kind is made of. */
export type RequestShape<T> = {
  fields: Fields;
  required: readonly string[];
  /** Fields that exist elsewhere but not here: refused in those words instead of as unknown. */
  unsupported: ReadonlySet<string>;
  /** Most elements of fields (`outer.inner` for those of fields) that are lists or maps; larger ones are refused before they are looked into. */
  sizes: Readonly<Record<string, number>>;
  /** Only for its type. */
  schema?: Schema<T>;
};

/** @param schema a strict object with a field `messages` */
export function requestShape<T>(
  schema: Schema<T> & { shape: Fields },
  options: { unsupported?: ReadonlySet<string>; sizes?: Readonly<Record<string, number>> } = {},
): RequestShape<T> {
  const { messages: _, ...fields } = schema.shape;
  return {
    fields,
    required: [...requiredOf(fields), 'messages'],
    unsupported: options.unsupported ?? new Set(),
    sizes: options.sizes ?? {},
  };
}

const requiredOf = (fields: Fields): string[] =>
  Object.keys(fields).filter((name) => fields[name]?.safeParse(undefined).success === false);

const { content: _, ...MESSAGE_FIELDS } = ChatMessage.shape as Fields;
const MESSAGE_SHAPE = {
  fields: MESSAGE_FIELDS,
  required: [...requiredOf(MESSAGE_FIELDS), 'content'],
  unsupported: new Set<string>(),
  sizes: {},
};

/** Reads the whole request. */
export function walkRequest<T extends { messages: ChatMessage[] }>(value: unknown, shape: RequestShape<T>): Walked<T> {
  const violations = new ViolationList();
  const images: NamedImage[] = [];
  if (!isObject(value)) {
    violations.add(violation('invalid_type', null, { expected: 'a JSON object', received: describe(value) }));
    return { request: null, fields: {}, wrongFields: new Set(), messages: null, images, roles: [], violations };
  }
  let messages: ChatMessage[] | null = null;
  const { fields, wrong } = walkFields(value, [], shape, violations, {
    messages: (list) => {
      messages = walkMessages(list, violations, images);
    },
  });
  const request = violations.total === 0 && messages !== null ? ({ ...fields, messages } as unknown as T) : null;
  return {
    request,
    fields: fields as Partial<Omit<T, 'messages'>>,
    wrongFields: wrong,
    messages,
    images,
    roles: Array.isArray(value.messages) ? value.messages.slice(0, R.maxMessages).map(roleOf) : [],
    violations,
  };
}

/** @param own fields that are read in another way than by their schema */
function walkFields(
  value: Json,
  path: Path,
  { fields: schemas, required, unsupported, sizes }: Omit<RequestShape<unknown>, 'schema'>,
  violations: ViolationList,
  own: Readonly<Record<string, (value: unknown) => void>>,
): { fields: Record<string, unknown>; wrong: Set<string> } {
  const fields: Record<string, unknown> = {};
  const wrong = new Set<string>();
  const keys = Object.keys(value);
  for (const [i, key] of keys.entries()) {
    const read = Object.hasOwn(own, key) ? own[key] : undefined;
    const schema = Object.hasOwn(schemas, key) ? schemas[key] : undefined;
    if (read !== undefined) read(value[key]);
    else if (schema !== undefined) {
      const tooMany =
        checkSize(value[key], [...path, key], sizes[key]) ?? checkInnerSize(value[key], [...path, key], sizes);
      const parsed = tooMany === null ? schema.safeParse(value[key]) : null;
      if (parsed?.success === true) fields[key] = parsed.data;
      else {
        wrong.add(key);
        if (tooMany !== null) violations.add(tooMany);
        else if (parsed !== null) violationsOf(parsed.error.issues, value[key], [...path, key], violations);
      }
    } else if (violations.isFull && keys.length > 1_000) {
      // Nothing more of a huge object is told apart.
      violations.skip(keys.length - i);
      break;
    } else violations.add(unknownOrUnsupported([...path, key], value[key], unsupported));
  }
  for (const key of required) {
    if (Object.hasOwn(value, key)) continue;
    if (Object.hasOwn(own, key)) own[key]?.(undefined);
    else {
      const parsed = schemas[key]?.safeParse(undefined);
      if (parsed?.success === false) violationsOf(parsed.error.issues, undefined, [...path, key], violations);
    }
  }
  return { fields, wrong };
}

function unknownOrUnsupported(path: Path, value: unknown, unsupported: ReadonlySet<string>): Violation {
  if (!unsupported.has(String(path.at(-1)))) return unknownParameter(path, value);
  return violation('unsupported_parameter', fieldPath(path), {
    expected: 'no such field',
    remedy: 'It is not supported yet; leave it out.',
  });
}

/** Lists and maps far beyond their limit are not read at all. */
function checkSize(value: unknown, path: Path, max: number | undefined): Violation | null {
  if (max === undefined || typeof value !== 'object' || value === null) return null;
  const size = Array.isArray(value) ? value.length : Object.keys(value).length;
  return size > max ? itemsViolation(path, `at most ${max} items`, size) : null;
}

/** The same for the fields of a field, named `outer.inner`. */
function checkInnerSize(value: unknown, path: Path, sizes: RequestShape<unknown>['sizes']): Violation | null {
  if (!isObject(value)) return null;
  const outer = `${String(path.at(-1))}.`;
  for (const [name, max] of Object.entries(sizes)) {
    const inner = name.startsWith(outer) ? name.slice(outer.length) : null;
    if (inner === null || !Object.hasOwn(value, inner)) continue;
    const found = checkSize(value[inner], [...path, inner], max);
    if (found !== null) return found;
  }
  return null;
}

const itemsViolation = (path: Path, expected: string, count: number): Violation =>
  violation('invalid_value', fieldPath(path), { expected, received: `${count} item${count === 1 ? '' : 's'}` });

/** @returns the messages where all of them are right */
function walkMessages(value: unknown, violations: ViolationList, images: NamedImage[]): ChatMessage[] | null {
  const list = checkList(value, ['messages'], R.maxMessages, violations);
  if (list === null) return null;
  const before = violations.total;
  const messages: ChatMessage[] = [];
  const texts = new TextTotal(violations);
  for (const [m, message] of list.entries()) {
    const read = walkMessage(message, ['messages', m], violations, images, texts);
    if (read !== null) messages.push(read);
  }
  return violations.total === before && list.length === (value as unknown[]).length ? messages : null;
}

function walkMessage(
  value: unknown,
  path: Path,
  violations: ViolationList,
  images: NamedImage[],
  texts: TextTotal,
): ChatMessage | null {
  if (!isObject(value)) {
    violations.add(violation('invalid_type', fieldPath(path), { expected: 'an object', received: describe(value) }));
    return null;
  }
  const before = violations.total;
  let content: ChatMessage['content'] = '';
  const { fields } = walkFields(value, path, MESSAGE_SHAPE, violations, {
    content: (given) => {
      content = walkContent(given, [...path, 'content'], value.role, violations, images, texts);
    },
  });
  return violations.total === before ? ({ ...fields, content } as ChatMessage) : null;
}

function walkContent(
  value: unknown,
  path: Path,
  role: unknown,
  violations: ViolationList,
  images: NamedImage[],
  texts: TextTotal,
): ChatMessage['content'] {
  if (typeof value === 'string') {
    if (value.length > R.maxTextChars) {
      const received = `${value.length} characters`;
      violations.add(
        violation('invalid_value', fieldPath(path), { expected: `at most ${R.maxTextChars} characters`, received }),
      );
    } else texts.add(value, path);
    return value;
  }
  if (!Array.isArray(value)) {
    const code = value === undefined ? 'missing_required_parameter' : 'invalid_type';
    violations.add(
      violation(code, fieldPath(path), { expected: 'a string or an array of parts', received: describe(value) }),
    );
    return '';
  }
  const list = checkList(value, path, R.maxPartsPerMessage, violations) ?? [];
  const parts: ContentPart[] = [];
  for (const [p, part] of list.entries()) {
    const parsed = ContentPart.safeParse(part);
    const at = [...path, p];
    if (parsed.success) parts.push(parsed.data);
    else violationsOf(parsed.error.issues, part, at, violations);
    const text = isObject(part) && part.type === 'text' ? part.text : undefined;
    if (parsed.success && typeof text === 'string') texts.add(text, [...at, 'text']);
    const image = imageOf(part);
    if (image !== null) images.push({ param: fieldPath([...at, image.field]), url: image.url, role });
  }
  return parts;
}

const roleOf = (message: unknown): unknown => (isObject(message) ? message.role : undefined);

/** The picture that a part names. */
function imageOf(part: unknown): { field: string; url: string } | null {
  if (!isObject(part)) return null;
  const { type, image_url, image_file } = part;
  const url = type === 'image_url' && isObject(image_url) ? image_url.url : undefined;
  if (typeof url === 'string') return { field: 'image_url', url };
  const id = type === 'image_file' && isObject(image_file) ? image_file.file_id : undefined;
  return typeof id === 'string' ? { field: 'image_file', url: id } : null;
}

/** @returns what of the list is to be looked at: all of it, or as much as would be allowed; null where there is no list */
function checkList(value: unknown, path: Path, max: number, violations: ViolationList): readonly unknown[] | null {
  if (!Array.isArray(value)) {
    const code = value === undefined ? 'missing_required_parameter' : 'invalid_type';
    violations.add(violation(code, fieldPath(path), { expected: 'an array', received: describe(value) }));
    return null;
  }
  if (value.length === 0) violations.add(itemsViolation(path, 'at least 1 item', 0));
  if (value.length <= max) return value;
  violations.add(itemsViolation(path, `at most ${max} items`, value.length));
  return value.slice(0, max);
}

/** All texts together, refused where they pass the limit. */
class TextTotal {
  #chars = 0;
  readonly #violations: ViolationList;

  constructor(violations: ViolationList) {
    this.#violations = violations;
  }

  add(text: string, path: Path): void {
    const before = this.#chars;
    this.#chars += text.length;
    if (this.#chars <= R.maxTotalTextChars || before > R.maxTotalTextChars) return;
    const expected = `at most ${R.maxTotalTextChars} characters in all texts`;
    this.#violations.add(violation('invalid_value', fieldPath(path), { expected, received: `${this.#chars} so far` }));
  }
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * Sorts violations by where the client wrote what they are about, so that the first one is the first a reader meets. What is missing comes at the end
 * of what it is missing from; what belongs to no field comes first.
 */
export function inReadingOrder(violations: readonly Violation[], root: unknown): Violation[] {
  const keysOf = new Map<object, ReadonlyMap<string, number>>();
  const places = new Map(violations.map((one) => [one, placeOf(one.param, root, keysOf)]));
  return [...violations].sort((a, b) => {
    const [x, y] = [places.get(a) ?? [], places.get(b) ?? []];
    for (let i = 0; i < Math.min(x.length, y.length); i++) if (x[i] !== y[i]) return (x[i] ?? 0) - (y[i] ?? 0);
    return x.length - y.length;
  });
}

function placeOf(param: string | null, root: unknown, keysOf: Map<object, ReadonlyMap<string, number>>): number[] {
  const place: number[] = [];
  let at = root;
  for (const [, key = '', index] of (param ?? '').matchAll(/([^.[\]]+)|\[(\d+)\]/g)) {
    if (Array.isArray(at)) {
      place.push(Number(index ?? key));
      at = at[Number(index ?? key)];
    } else if (isObject(at)) {
      let keys = keysOf.get(at);
      if (keys === undefined) {
        keys = new Map(Object.keys(at).map((name, i) => [name, i]));
        keysOf.set(at, keys);
      }
      place.push(keys.get(key) ?? Number.MAX_SAFE_INTEGER);
      at = Object.hasOwn(at, key) ? at[key] : undefined;
    } else break;
  }
  return place;
}
