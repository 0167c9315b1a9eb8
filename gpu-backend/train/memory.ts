/** The smallest piece of a step does not fit the memory. The last checkpoint is as it was. */
export class OutOfMemory extends Error {
  override readonly name = 'OutOfMemory';
}

/**
 * Whether an error says that memory could not be had: ONNX Runtime's arena, the C++ allocator below it, or V8.
 * A kernel that kills the process instead throws nothing; the parent sees that.
 */
export function isAllocationFailure(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  return (
    /failed to allocate memory|bad_alloc|bad allocation|cannot allocate memory|out of memory/i.test(error.message) ||
    (error instanceof RangeError &&
      /allocation failed|could not allocate|invalid (typed )?array( buffer)? length/i.test(error.message))
  );
}
