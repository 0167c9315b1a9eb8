import type { QUERY } from './query.ts';
import type { SchemaName } from './schemas.ts';

/** One row of the API: what a path does, takes and answers. */
export type Operation = {
  method: 'get' | 'post' | 'delete';
  path: string;
  id: string;
  summary: string;
  tag: string;
  /** `multipart`: a file with its purpose; `part`: bytes of an upload. */
  body?: SchemaName | 'multipart' | 'part';
  /** What 200 answers with: a schema, a list of it, or something else. */
  answer: SchemaName | { list: SchemaName } | 'bytes' | 'text' | 'any';
  /** Also answers as server-sent events of this schema. */
  stream?: SchemaName;
  query?: readonly (keyof typeof QUERY)[];
  open?: true;
};
