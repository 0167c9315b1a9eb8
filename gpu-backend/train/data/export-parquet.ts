import type { SchemaElement } from 'hyparquet';
import { fileWriter, ParquetWriter } from 'hyparquet-writer';

/** Readers may have to take a group whole. */
const GROUP_BYTES = 16 << 20;

export interface ParquetImage {
  readonly bytes: Uint8Array | null;
  readonly path: string;
}

/** A row in the layout of Mantis-Instruct's published files, with our `skill` and `weight`. */
export interface MantisRow {
  readonly id: string;
  readonly skill: string | null;
  readonly images: readonly ParquetImage[];
  readonly conversation: readonly { readonly role: string; readonly content: string; readonly weight?: number }[];
}

const text = (name: string): SchemaElement => ({
  name,
  type: 'BYTE_ARRAY',
  converted_type: 'UTF8',
  repetition_type: 'OPTIONAL',
});

const list = (name: string, fields: readonly SchemaElement[]): SchemaElement[] => [
  { name, repetition_type: 'OPTIONAL', num_children: 1, converted_type: 'LIST' },
  { name: 'list', repetition_type: 'REPEATED', num_children: 1 },
  { name: 'element', repetition_type: 'OPTIONAL', num_children: fields.length },
  ...fields,
];

const SCHEMA: SchemaElement[] = [
  { name: 'root', num_children: 4 },
  text('id'),
  text('skill'),
  ...list('images', [{ name: 'bytes', type: 'BYTE_ARRAY', repetition_type: 'OPTIONAL' }, text('path')]),
  ...list('conversation', [
    text('role'),
    text('content'),
    { name: 'weight', type: 'INT32', repetition_type: 'OPTIONAL' },
  ]),
];

/** Writes Mantis-Instruct's Parquet layout with the pictures' bytes inside, a row group at a time. */
export class MantisParquet {
  private readonly writer: ParquetWriter;
  private rows: MantisRow[] = [];
  private bytes = 0;

  /** @param groupBytes rows of a group are written when they hold so many */
  constructor(
    path: string,
    private readonly groupBytes = GROUP_BYTES,
  ) {
    this.writer = new ParquetWriter({ writer: fileWriter(path), schema: SCHEMA, createdBy: 'mantis-edge' });
  }

  async add(row: MantisRow): Promise<void> {
    this.rows.push(row);
    for (const { bytes } of row.images) this.bytes += bytes?.length ?? 0;
    for (const { content } of row.conversation) this.bytes += content.length;
    if (this.bytes >= this.groupBytes) await this.flush();
  }

  async finish(): Promise<void> {
    await this.flush();
    await this.writer.finish();
  }

  private async flush(): Promise<void> {
    if (this.rows.length === 0) return;
    const rows = this.rows;
    this.rows = [];
    this.bytes = 0;
    await this.writer.write({
      columnData: [
        { name: 'id', data: rows.map(({ id }) => id) },
        { name: 'skill', data: rows.map(({ skill }) => skill) },
        // Statistics of pictures would put their first bytes into the footer.
        { name: 'images', data: rows.map(({ images }) => images), codec: 'UNCOMPRESSED', statistics: false },
        { name: 'conversation', data: rows.map(({ conversation }) => conversation), statistics: false },
      ],
      rowGroupSize: rows.length,
    });
  }
}
