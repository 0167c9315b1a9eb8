import { randomBytes } from 'node:crypto';
import { type FileHandle, mkdir, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { faultPoint } from './fault-point.ts';
import { bytesOf, DTYPE_BYTES, elementCount, type StoredDtype } from './tensor.ts';

/** A tensor to write; `data` may be a function, called only when its turn comes, so that one tensor at a time is in memory. */
export interface WritableTensor {
  readonly dtype: StoredDtype;
  readonly shape: readonly number[];
  readonly data: ArrayBufferView | (() => ArrayBufferView | Promise<ArrayBufferView>);
}

/**
 * Writes a safetensors file so that its path always holds either the old or the complete new file: into a temporary file
 * beside it, synced, renamed over, folder synced. Tensors are laid out widest element first and then by name, the header
 * padded to 8 bytes: the same tensors give the same bytes.
 *
 * @param metadata free strings, kept under `__metadata__` (Hugging Face readers expect `format: "pt"`)
 * @throws Error when a tensor's bytes do not match its shape; the temporary file is removed
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<readonly [string, WritableTensor]>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const ordered = [...tensors].sort(
    ([nameA, a], [nameB, b]) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype] || (nameA < nameB ? -1 : 1),
  );
  const header = encodeHeader(ordered, metadata);
  await mkdir(dirname(path), { recursive: true });
  await replaceFile(path, async (file) => {
    await writeAll(file, header);
    for (const [name, tensor] of ordered) {
      const data = bytesOf(typeof tensor.data === 'function' ? await tensor.data() : tensor.data);
      const expected = elementCount(tensor.shape) * DTYPE_BYTES[tensor.dtype];
      if (data.byteLength !== expected) {
        throw new Error(
          `tensor ${name}: expected ${expected} bytes for ${tensor.dtype} [${tensor.shape.join(', ')}], got ${data.byteLength}`,
        );
      }
      await writeAll(file, data);
    }
  });
}

/** What the header says of a tensor. */
export type TensorSlot = Pick<WritableTensor, 'dtype' | 'shape'>;

/** The bytes before the data section, for tensors that follow one another in the given order. */
export function encodeHeader(
  ordered: readonly (readonly [string, TensorSlot])[],
  metadata: Readonly<Record<string, string>>,
): Uint8Array {
  const seen = new Set<string>(['__metadata__']);
  let offset = 0;
  const fields: string[] = Object.keys(metadata).length > 0 ? [`"__metadata__":${JSON.stringify(metadata)}`] : [];
  for (const [name, { dtype, shape }] of ordered) {
    if (seen.has(name))
      throw new Error(`tensor name ${JSON.stringify(name)} is taken: names must be unique and not __metadata__`);
    seen.add(name);
    const end = offset + elementCount(shape) * DTYPE_BYTES[dtype];
    fields.push(
      `${JSON.stringify(name)}:${JSON.stringify({ dtype: dtype.toUpperCase(), shape, data_offsets: [offset, end] })}`,
    );
    offset = end;
  }
  const json = Buffer.from(`{${fields.join(',')}}`);
  const padded = Math.ceil(json.length / 8) * 8;
  const header = new Uint8Array(8 + padded).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(padded), true);
  header.set(json, 8);
  return header;
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.byteLength; ) {
    faultPoint('file.write');
    const { bytesWritten } = await file.write(bytes, done, Math.min(1 << 26, bytes.byteLength - done));
    done += bytesWritten;
  }
}

/**
 * Replaces a file as a whole: after a crash at any moment the path holds the old content or all of the new one.
 * @param write fills the temporary file; when it throws, the old file stays and the temporary one is removed
 */
export async function replaceFile(path: string, write: (file: FileHandle) => Promise<void>): Promise<void> {
  const temporary = `${path}.${process.pid}-${randomBytes(4).toString('hex')}.tmp`;
  faultPoint('file.open');
  const file = await open(temporary, 'wx');
  try {
    try {
      await write(file);
      faultPoint('file.sync');
      await file.sync();
    } finally {
      await file.close();
    }
    faultPoint('file.rename');
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  const folder = await open(dirname(path), 'r');
  try {
    faultPoint('file.folder');
    await folder.sync();
  } finally {
    await folder.close();
  }
}
